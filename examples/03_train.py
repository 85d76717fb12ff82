"""Train a model on a table of measured sections and print what its card says of every held-out section.

Usage: python examples/03_train.py SECTIONS.csv OUTPUT [HELD_OUT_SECTION ...]
"""

import sys
from pathlib import Path

from stimage_qupath.config import TrainSettings
from stimage_qupath.pipeline import train

table, output, *held_out = sys.argv[1:]
card = train.run(
    TrainSettings(dataset=Path(table), output=Path(output), hold_out=tuple(held_out), members=3, panel_size=200)
)
for kind in card["held_out"].values():
    print(kind["split"])
    for section, figures in kind["sections"].items():
        residual = figures["pcc_residual_mean"]
        low, high = residual["ci"]
        print(f"  {section}: pcc_residual_mean {residual['value']:.3f} [{low:.3f}, {high:.3f}]")
print("genes for QuPath:", ", ".join(card["default_genes"]))
