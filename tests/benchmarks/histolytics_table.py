"""The classified nuclei of histolytics' two HGSC images as GeoJSON and a dataset table for train-cell-types.

    python tests/benchmarks/histolytics_table.py FOLDER OUTPUT

FOLDER holds ``hgsc_nest.jpg`` with ``hgsc_nest.parquet``, ``hgsc_stromal_he.jpg`` with ``hgsc_stromal_cells.parquet``.
Outlines and classes come from a segmentation model, not from a person. The images state no pixel size; 0.36 um, which
the bundled nucleus network was trained with too, makes their median nucleus 6.2 um wide.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pandas as pd
import shapely

PAIRS = {"hgsc_nest.jpg": "hgsc_nest.parquet", "hgsc_stromal_he.jpg": "hgsc_stromal_cells.parquet"}
COLORS = {"neoplastic": (200, 0, 0), "inflammatory": (160, 90, 160), "connective": (150, 200, 150)}
MPP = 0.36
LEAST_PX2 = 20.0


def feature(outline: shapely.Polygon, name: str) -> dict[str, object]:
    """Return a classified detection."""
    properties = {"objectType": "detection", "classification": {"name": name, "color": COLORS[name]}}
    return {"type": "Feature", "geometry": shapely.geometry.mapping(outline), "properties": properties}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    with (asked.output / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "mpp", "patient", "licence"])
        for image, labels in PAIRS.items():
            table = pd.read_parquet(asked.folder / labels)
            outlines = shapely.from_wkb(table.geometry.to_numpy())
            kept = shapely.is_valid(outlines) & (shapely.area(outlines) > LEAST_PX2)
            features = [feature(o, c) for o, c in zip(outlines[kept], table.class_name[kept], strict=True)]
            target = asked.output / f"{Path(image).stem}.geojson"
            target.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
            writer.writerow([(asked.folder / image).resolve(), target.name, MPP, "histolytics", "BSD-3-Clause"])


if __name__ == "__main__":
    main()
