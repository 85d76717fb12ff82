"""Small measured sections whose expression follows their colour."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

GENES = ["BLUE", "PINK", "FLAT"]


def write_section(folder, name, seed, random_counts=False):
    """Write 48 spots on stripes of purple and pink; BLUE counts follow the purple, PINK the pink."""
    rng = np.random.default_rng(seed)
    purple, pink, stripe = (110, 60, 150), (225, 160, 190), 100
    pixels = np.empty((600, 800, 3), np.uint8)
    dark = np.repeat(rng.random((6, 8)) < 0.5, stripe, 0).repeat(stripe, 1)
    pixels[:] = np.where(dark[..., None], purple, pink) + rng.integers(-12, 12, pixels.shape)
    Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
    with (folder / f"{name}_spots.tsv").open("w", newline="") as spots, (folder / f"{name}.tsv").open("w") as counts:
        writer = csv.writer(spots, delimiter="\t")
        writer.writerow(["x", "y", "pixel_x", "pixel_y"])
        counts.write("\t" + "\t".join(GENES) + "\n")
        for row in range(6):
            for column in range(8):
                x, y = column * stripe + 50, row * stripe + 50
                share = np.array([0.5, 0.1, 0.4] if dark[y, x] else [0.1, 0.5, 0.4])
                depth = rng.uniform(300, 3000)
                values = rng.integers(0, 2000, 3) + 100 if random_counts else rng.poisson(depth * share)
                writer.writerow([column, row, x, y])
                counts.write(f"{column}x{row}\t" + "\t".join(str(v) for v in values) + "\n")


@pytest.fixture(scope="session")
def rewrite_section():
    """Return the function that writes a section, for tests that change one."""
    return write_section


@pytest.fixture(scope="session")
def sections_folder(tmp_path_factory):
    """Return a folder with ``table.csv`` of four sections of two patients."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number, name in enumerate(("S1", "S2", "S3", "H")):
        write_section(folder, name, seed=number)
        rows.append(f"{name},P{number % 2},{name}.png,{name}.tsv,{name}_spots.tsv,legacy_st,1.0\n")
    (folder / "table.csv").write_text("section,patient,image,counts,spots,platform,mpp\n" + "".join(rows))
    return folder
