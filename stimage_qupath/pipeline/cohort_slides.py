"""The slides of a cohort: which run folders there are, and each read into its pseudobulk, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.clinical.pseudobulk import PseudobulkSum, effective_windows
from stimage_qupath.clinical.slides import Slide
from stimage_qupath.clinical.table import listed
from stimage_qupath.errors import UsageError
from stimage_qupath.export.run_matrix import matrix_blocks, panel_of
from stimage_qupath.export.run_reader import Run, read_run

ALL: Final = ""
"""The group of all nuclei."""
TYPE: Final = "type:"
"""Begins the names of groups by cell type."""
PROJECT: Final = "project"


@dataclass(frozen=True, slots=True)
class Found:
    """A run and what its image is called, in QuPath too."""

    run: Run
    name: str
    names: frozenset[str]


def find_runs(paths: Iterable[str]) -> list[Found]:
    """Return the runs in some folders: a run each, the images of a project's output, or a folder of run folders.

    Raises
    ------
    UsageError
        A folder holds no run, or a run is given twice.
    """
    found = [run for path in paths for run in _runs_in(Path(path))]
    folders = [one.run.path.resolve() for one in found]
    twice = sorted(str(folder) for folder in set(folders) if folders.count(folder) > 1)
    if twice:
        msg = f"expected each run once, found {listed(twice)} given more than once; leave the second out"
        raise UsageError(msg)
    return found


def _runs_in(path: Path) -> list[Found]:
    record = path / names.RUN_JSON
    if record.is_file():
        table = _project_table(record)
        return [_found(path)] if table is None else [_found(path / row["run"], row["name"]) for row in table]
    inside = sorted(entry.parent for entry in path.glob(f"*/{names.RUN_JSON}")) if path.is_dir() else []
    if not inside:
        msg = f"expected a run folder, or a folder of them, at {path}, found none; give the output of predict"
        raise UsageError(msg)
    return [run for folder in inside for run in _runs_in(folder)]


def _project_table(path: Path) -> list[dict[str, Any]] | None:
    """Return the finished images of a project's ``run.json``, None for the record of a single run."""
    try:
        record = orjson.loads(path.read_bytes())
        if record.get("kind") != PROJECT:
            return None
        return [row for row in record["images"] if row["run"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"expected the record of a run in {path}, found: {error!r}; run the prediction again"
        raise UsageError(msg) from error


def _found(path: Path, also: str | None = None) -> Found:
    run = read_run(path)
    name = str(run.record["image"]["name"])
    called = {name, path.resolve().name, *((also,) if also else ())}
    stems = {PurePath(text).stem.removesuffix(".ome") for text in (name, also) if text}
    return Found(run, also or name, frozenset(called | stems))


def check_models(found: Sequence[Found]) -> dict[str, Any]:
    """Return what the runs say of their one model.

    Raises
    ------
    UsageError
        A run holds nuclei alone, or two runs were made by different models.
    """
    bare = [one.run.path.name for one in found if one.run.record.get("model") is None]
    if bare:
        msg = f"expected runs with predictions, found nuclei alone in {listed(bare)}; run predict"
        raise UsageError(msg)
    models: list[dict[str, Any]] = [one.run.record["model"] for one in found]
    for one, model in zip(found, models, strict=True):
        if model["sha256"] != models[0]["sha256"]:
            two = [f"{m['name']} ({m['sha256'][:12]})" for m in (models[0], model)]
            msg = (
                f"expected runs of one model, found {two[0]} in {found[0].run.path.name} and {two[1]} in "
                f"{one.run.path.name}; predict all slides with one model"
            )
            raise UsageError(msg)
    return models[0]


def window_of(model: dict[str, Any]) -> float:
    """Return the side of the window that the model's encoder sees, um."""
    encoder = model["encoder"]
    return float(encoder.get("tile_um") or encoder["tile_px"] * encoder["mpp"])


def read_slide(
    found: Found,
    genes: Sequence[str],
    *,
    by: Sequence[str],
    window_um: float,
    between: Callable[[int, int], None] = lambda done, total: None,
) -> Slide:
    """Read one run into its pseudobulk; a block of the matrix is in memory at a time.

    Parameters
    ----------
    found
        The run.
    genes
        Genes of the cohort.
    by
        ``class`` and ``type``, or fewer.
    window_um
        Side of the window that neighbouring nuclei share.
    between
        Called after each block with the nuclei done and their number; may raise to stop.
    """
    run, groups = found.run, _Groups.of(found.run, by)
    total = PseudobulkSum(groups.names, len(genes))
    for block in matrix_blocks(run, genes):
        total.add(groups.member[block.rows], mean=block.mean, aleatoric=block.aleatoric, epistemic=block.epistemic)
        between(block.rows.stop, len(run))
    mpp = float(run.record["image"]["mpp"])
    windows = np.array([effective_windows(groups.places_px[m] * mpp, window_um) for m in groups.member.T])
    return Slide(
        name=found.name,
        names=found.names,
        run=run.path.resolve().name,
        bulk=total.result(windows),
        area_mm2=_areas(run, groups.names, mpp),
        outside_training=_mean(groups.outside),
        tissue_fraction=_mean(groups.tissue),
        member_scores=_member_scores(run),
    )


@dataclass(frozen=True, slots=True)
class _Groups:
    """Which nuclei belong together, and the few columns of a run that a cohort looks at."""

    names: tuple[str, ...]
    member: NDArray[np.bool_]
    places_px: NDArray[np.float64]
    outside: NDArray[np.float64]
    tissue: NDArray[np.float64]

    @classmethod
    def of(cls, run: Run, by: Sequence[str]) -> _Groups:
        n = len(run)
        quality = [names.TABLE_COLUMN[name] for name in (names.OUTSIDE_TRAINING, names.TISSUE_FRACTION)]
        table = run.table(["x_px", "y_px", "cell_type", *quality])
        member = {ALL: np.ones(n, dtype=bool)}
        if "class" in by:
            for span in run.spans:
                if span.region.classification:
                    member.setdefault(span.region.classification, np.zeros(n, dtype=bool))[span.rows] = True
        if "type" in by:
            types = table["cell_type"].to_numpy(object)
            for word in sorted({word for word in types if isinstance(word, str)}):
                member[f"{TYPE}{word}"] = types == word
        return cls(
            tuple(member),
            np.column_stack(list(member.values())),
            table[["x_px", "y_px"]].to_numpy(np.float64),
            *(table[column].to_numpy(np.float64) for column in quality),
        )


def _areas(run: Run, groups: Sequence[str], mpp: float) -> dict[str, float]:
    """Return the analysed tissue of each group, mm^2: that of its regions, of a cell type that of all regions."""
    square = (mpp / 1000) ** 2
    tissue = run.record.get("quality", {}).get("tissue_mm2") or np.inf

    def area(classification: str | None) -> float:
        taken = [s.region.geometry for s in run.spans if classification in (None, s.region.classification)]
        return float(min(shapely.union_all(taken).area * square, tissue))

    whole = area(None)
    return {group: whole if group == ALL or group.startswith(TYPE) else area(group) for group in groups}


def _member_scores(run: Run) -> dict[str, NDArray[np.float64]]:
    entries = run.record.get("signatures", {}).get("signatures", [])
    return {entry["name"]: np.array(entry["member_mean"]) for entry in entries if entry["member_mean"]}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def panel_in_common(found: Sequence[Found]) -> tuple[str, ...]:
    """Return the panel, which runs of one model share."""
    return panel_of(found[0].run)
