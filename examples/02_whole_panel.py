"""Open the whole panel of a run as AnnData and list the genes the ensemble disagrees about most.

Usage: python examples/02_whole_panel.py RUN
"""

import sys
from pathlib import Path

import numpy as np

from stimage_qupath.export.run_folder import read_run

cells = read_run(Path(sys.argv[1])).anndata()
print(cells)

# Law of total variance: the two layers add up to the variance of the mixture.
total = cells.layers["aleatoric"] + cells.layers["epistemic"]
share = (cells.layers["epistemic"] / total).mean(axis=0)
order = np.argsort(-share)[:10]
print("largest epistemic share of the variance:")
for gene in order:
    print(f"  {cells.var_names[gene]:<12} {share[gene]:.2f}")
