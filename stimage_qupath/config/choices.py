"""Words and limits that settings allow."""

from __future__ import annotations

from typing import Literal

Unit = Literal["cells", "grid"]
Measurements = Literal["short", "all"]
Precision = Literal["float32", "bfloat16", "float16"]
Likelihood = Literal["nb", "poisson"]
Recalibrate = Literal["none", "temperature", "conformal", "both"]
STARTER = "starter"
BUNDLED = "bundled"
DEVICES = ("auto", "cpu", "cuda", "mps")
STAIN_NORMALISATIONS = ("none", "macenko", "reinhard", "vahadane", "auto")
MOST_AGGREGATE_UM = 500.0
PERTURBATIONS = ("stain", "blur", "jpeg", "scale")
STARDIST = "stardist"
MOST_EXPANSION_UM = 50.0
"""Half the largest cell of any tissue; more is a slip of the pen."""
HE = "he"
"""The nucleus network for H&E that ships with the package."""
SEGMENTERS = ("classical", HE, STARDIST, f"{STARDIST}:FOLDER")
