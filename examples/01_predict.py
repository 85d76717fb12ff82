"""Predict on the packaged demo image from Python, and look at the result as a table.

Usage: python examples/01_predict.py [OUTPUT]
"""

import sys
from importlib import resources
from pathlib import Path

from stimage_qupath.config import PredictSettings
from stimage_qupath.export.run_folder import read_run
from stimage_qupath.pipeline import predict

output = Path(sys.argv[1] if len(sys.argv) > 1 else "example-run")
image = Path(str(resources.files("stardist") / "data" / "images" / "histo.jpg"))

# The image states no pixel size; 0.5 um per pixel is an assumption, as it would be for any JPEG.
record = predict.run(PredictSettings(image=image, mpp=0.5, output=output, genes=("ERBB2", "COL1A1"), force=True))
for warning in record["warnings"]:
    print("warning:", warning)

table = read_run(output).table()
columns = ["x_px", "y_px", "nucleus_area_um2", "COL1A1_mean", "COL1A1_epistemic_sd", "outside_training"]
print(table[columns].head().to_string())
print(f"{len(table)} nuclei; median area {table.nucleus_area_um2.median():.0f} um2")
