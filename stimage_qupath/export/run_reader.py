"""A run folder, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from stimage_qupath import names
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import OWNER_FILE
from stimage_qupath.export.run_record import RegionSpan, parse_run_json

if TYPE_CHECKING:
    import anndata
    import pandas as pd

CELL_FILES: Final = (names.CELLS_GEOJSON, names.CELLS_H5AD, names.CELLS_PARQUET)
OWN_FILES: Final = (
    *CELL_FILES,
    names.RUN_JSON,
    OWNER_FILE,
    names.REPORT_HTML,
    names.SPATIAL_JSON,
    names.OVERVIEW_PNG.format(gene="*"),
    names.ATTRIBUTION_JSON,
    names.ATTRIBUTION_PNG.format(what="*"),
    names.ATTRIBUTION_BACKGROUND,
    names.LATENT_PNG.format(what="*"),
    names.LATENT_PARQUET,
)
"""What a run folder may hold and still be replaced."""
DESKTOP_FILES: Final = (".DS_Store", "._*", "Thumbs.db", "desktop.ini")
"""File managers leave them everywhere; nobody misses them."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path
        Its folder.
    record
        Everything in ``run.json``.
    spans
        The regions and the rows of their nuclei, in file order.
    """

    path: Path
    record: Mapping[str, Any]
    spans: tuple[RegionSpan, ...]

    @property
    def geojson_path(self) -> Path:
        """What QuPath imports."""
        return self.path / names.CELLS_GEOJSON

    @property
    def h5ad_path(self) -> Path:
        """The whole panel."""
        return self.path / names.CELLS_H5AD

    @property
    def parquet_path(self) -> Path:
        """One row a nucleus, what QuPath got."""
        return self.path / names.CELLS_PARQUET

    def __len__(self) -> int:
        """Return the number of nuclei."""
        return sum(span.count for span in self.spans)

    def table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return ``cells.parquet``, or some of its columns in the order asked for.

        Raises
        ------
        UsageError
            It lacks one of ``columns``.
        """
        if columns is not None:
            there = pq.read_schema(self.parquet_path).names
            missing = [column for column in columns if column not in there]
            if missing:
                msg = f"expected columns of {self.parquet_path}, found {', '.join(missing)}; it has {', '.join(there)}"
                raise UsageError(msg)
        table = pq.read_table(self.parquet_path, columns=None if columns is None else list(columns))
        return table.to_pandas()

    def anndata(self, *, backed: bool = False) -> anndata.AnnData:
        """Return ``cells.h5ad``; with ``backed`` its matrices stay on the disk, read-only."""
        import anndata as ad  # heavy, and most readers of a run want the table

        return ad.read_h5ad(self.h5ad_path, backed="r" if backed else None)


def read_run(path: Path) -> Run:
    """Return the run in the folder ``path``.

    Raises
    ------
    UsageError
        There is no folder, it is no run folder, or one of its files is missing.
    """
    path = Path(path)
    if not (path / names.RUN_JSON).is_file():
        found = f"no {names.RUN_JSON} in it" if path.is_dir() else "no folder there"
        msg = f"expected a run folder at {path}, found {found}; give the output of a finished prediction"
        raise UsageError(msg)
    missing = [name for name in CELL_FILES if not (path / name).is_file()]
    if missing:
        msg = f"expected a whole run folder at {path}, found no {', '.join(missing)}; run the prediction again"
        raise UsageError(msg)
    record, spans = parse_run_json(path / names.RUN_JSON)
    return Run(path=path, record=record, spans=spans)


def what_is_foreign(folder: Path) -> str | None:
    """Return what in ``folder`` would be lost if it were replaced as a run; None for a run folder or an empty one."""
    found = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in found if not any(fnmatch(name, own) for own in (*OWN_FILES, *DESKTOP_FILES))]
    if foreign:
        return f"{', '.join(foreign[:5])} in it"
    own = [name for name in found if not any(fnmatch(name, desktop) for desktop in DESKTOP_FILES)]
    if own and names.RUN_JSON not in own:
        return f"no {names.RUN_JSON} in it"
    if own:
        try:
            parse_run_json(folder / names.RUN_JSON)
        except UsageError:
            return f"a {names.RUN_JSON} of another kind in it"
    return None
