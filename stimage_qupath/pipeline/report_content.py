"""What was read of a run, turned into what its page shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stimage_qupath import names
from stimage_qupath.export.run_genes import GeneValues
from stimage_qupath.export.run_reader import Run
from stimage_qupath.pipeline.run_layers import layers_of
from stimage_qupath.pipeline.run_regions import RunRegions
from stimage_qupath.pipeline.run_spatial import RunPatterns
from stimage_qupath.report.html import Picture
from stimage_qupath.report.run_report import Part, RunPage
from stimage_qupath.report.run_report_card import card_facts, citations_of, limits_of
from stimage_qupath.report.run_report_layers import (
    Layer,
    colour_tables,
    packed_flags,
    packed_places,
    shown_nuclei,
)
from stimage_qupath.report.run_report_plots import run_pictures
from stimage_qupath.report.run_report_tables import gene_table, moran_table, pair_table, region_table, stage_table
from stimage_qupath.report.validation import validation_pictures

NUCLEI_ONLY: Final = "Research use only. Outlines of nuclei; nothing was predicted in this run."
MOST_PLATE_BYTES: Final = 2_000_000
MOST_PLATES_BYTES: Final = 5_000_000
"""Of pictures that other commands left in the run folder."""
PLATES: Final = {
    names.LATENT_PNG.format(what="*"): "nuclei in the space of what the model sees of them, not in that of the slide",
    "attribution_faithfulness.png": f"whether attributions follow the model. {names.FAITHFUL_TO_MODEL}",
    names.ATTRIBUTION_PNG.format(what="*"): f"how much each nucleus drove the prediction. {names.FAITHFUL_TO_MODEL}",
    "validation_*.png": "the run against annotations",
}
"""Files of a run folder that the page shows, and what they are."""


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that was read, and what the page makes of it.

    Attributes
    ----------
    finished, table
        The run and its table.
    genes
        Values of the genes shown.
    regions, patterns
        Where nuclei are, and what patterns they make.
    slide_uri
        The slide as a ``data:`` address, or None.
    warnings
        Of making the report.
    """

    finished: Run
    table: pd.DataFrame
    genes: Mapping[str, GeneValues]
    regions: RunRegions
    patterns: RunPatterns
    slide_uri: str | None
    warnings: tuple[str, ...]

    @property
    def layers(self) -> list[Layer]:
        """What nuclei can be coloured by."""
        return layers_of(self.finished, self.table, self.genes, self.patterns.clusters)

    @property
    def shown(self) -> NDArray[np.intp]:
        """Nuclei in the viewer."""
        return shown_nuclei(len(self.table), len(self.layers))

    def page(self) -> RunPage:
        """Return the page."""
        record, card = self.finished.record, read_card(self.finished)
        viewer, arrays = self._viewer()
        return RunPage(
            title=str(record["image"]["name"]),
            subtitle=self._subtitle(card),
            facts=self._facts(),
            warnings=[*record["warnings"], *self.warnings],
            parts=self._parts(card),
            pictures=self._pictures(card),
            card_facts=card_facts(card) if card else {"Model": "none: nuclei were only outlined"},
            card_text=json.dumps(card, indent=1, ensure_ascii=False) if card else "",
            limits=limits_of(card, list(self.genes)),
            citations=citations_of(card),
            versions=_versions(record),
            research_use=record.get("research_use") or NUCLEI_ONLY,
            viewer=viewer,
            arrays=arrays,
            slide_uri=self.slide_uri,
            drawn=self._drawn(),
        )

    def _pictures(self, card: Mapping[str, Any]) -> list[Picture]:
        own = run_pictures(self.genes, self._column(names.OOD_SCORE), card)
        return [*own, *_validated(self.finished.path), *_plates(self.finished.path)]

    def _column(self, name: str) -> NDArray[np.float64] | None:
        column = names.TABLE_COLUMN[name]
        return self.table[column].to_numpy(np.float64) if column in self.table else None

    def _subtitle(self, card: Mapping[str, Any]) -> str:
        run_name = self.finished.path.resolve().name
        what = f"predicted with the model '{card['name']}'" if card else "nuclei outlined"
        return f"Run {run_name}, {what}, stimage-qupath {self.finished.record['versions']['stimage-qupath']}"

    def _facts(self) -> dict[str, str]:
        record, outside = self.finished.record, self._column(names.OUTSIDE_TRAINING)
        facts = {
            "Nuclei": f"{len(self.table):,}",
            "Regions": f"{len(self.finished.spans):,}",
            "Pixel size": f"{record['image']['mpp']:g} µm",
            "Slide": f"{record['image']['width']:,} × {record['image']['height']:,} px",
        }
        if outside is not None and len(outside):
            facts["Genes shown"] = f"{len(self.genes):,}"
            facts["Outside training"] = f"{np.nanmean(outside):.1%}"
        return facts

    def _parts(self, card: Mapping[str, Any]) -> list[Part]:
        outside = self._column(names.OUTSIDE_TRAINING)
        of_regions = [
            region_table(title, found, self.genes, outside, first=first)
            for title, found, first in self.regions.groups()
        ]
        spatial = self.patterns.record
        return [
            Part("regions", "Regions", of_regions),
            Part("genes", "Genes", [gene_table(self.genes, card)] if self.genes else []),
            Part("space", "Patterns in space", [moran_table(spatial), pair_table(spatial)] if spatial else []),
            Part("run", "How the run was made", [stage_table(self.finished.record)]),
        ]

    def _drawn(self) -> str:
        if len(self.shown) == len(self.table):
            return f"All {len(self.table):,} nuclei are drawn, as discs of their median size."
        return (
            f"{len(self.shown):,} of {len(self.table):,} nuclei are drawn, evenly chosen, to keep the page small; "
            "tables and plots are of all."
        )

    def _viewer(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what the script needs to know, and the packed numbers."""
        image, shown = self.finished.record["image"], self.shown
        outside, area = self._column(names.OUTSIDE_TRAINING), self._column(names.AREA)
        size = float(image["width"]), float(image["height"])
        packed = [layer.packed(shown) for layer in self.layers]
        places = self.table[["x_px", "y_px"]].to_numpy(np.float64)[shown]
        arrays = {f"layer-{i}": text for i, (_, text) in enumerate(packed)}
        arrays["places"] = packed_places(places, size)
        if outside is not None:
            arrays["outside"] = packed_flags(outside[shown] == 1)
        median_um2 = float(np.nanmedian(area)) if area is not None and np.isfinite(area).any() else 50.0
        about = {
            "width": size[0],
            "height": size[1],
            "mpp": float(image["mpp"]),
            "radius_px": float(np.sqrt(median_um2 / np.pi) / image["mpp"]),
            "home": self.regions.home(size),
            "regions": self.regions.drawn(),
            "layers": [entry for entry, _ in packed],
            "colours": colour_tables(),
            "has_outside": outside is not None,
        }
        return about, arrays


def read_card(finished: Run) -> dict[str, Any]:
    """Return the model card that a run keeps; empty where nuclei were only outlined."""
    with h5py.File(finished.h5ad_path, "r") as file:
        card: dict[str, Any] = json.loads(file["uns"]["stimage_qupath"]["card"].asstr()[()])
    return card


def _versions(record: Mapping[str, Any]) -> str:
    return "Made with " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()) + "."


def _validated(folder: Path) -> list[Picture]:
    """Return the pictures of a validation that lies in the run folder, or beside it where ``validate`` puts it."""
    resolved = folder.resolve()
    for place in (resolved, resolved.with_name(f"{resolved.name}-validation")):
        if (place / names.VALIDATION_JSON).is_file():
            return validation_pictures(json.loads((place / names.VALIDATION_JSON).read_bytes()))
    return []


def _plates(folder: Path) -> list[Picture]:
    """Return the pictures that other commands left in the run folder, as far as they fit."""
    said_of: dict[Path, str] = {}
    for pattern, said in PLATES.items():
        for path in sorted(folder.glob(pattern)):
            said_of.setdefault(path, said)
    found, left = [], MOST_PLATES_BYTES
    for path, said in said_of.items():
        size = path.stat().st_size
        if size > min(MOST_PLATE_BYTES, left):
            continue
        left -= size
        uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        found.append(Picture(uri, f"{path.name}: {said}", f"{said} ({path.name})"))
    return found
