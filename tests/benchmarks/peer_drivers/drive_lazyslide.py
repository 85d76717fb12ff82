"""LazySlide: tiles of given corners through ``zs.tl.feature_extraction``; see ``serve.py``.

The transform is its default without the resizing and cropping, which tiles of the network's size do not need.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version

import lazyslide as zs
import numpy as np
import torch
from lazyslide_models import TimmModel
from serve import Prepare, Prepared, Task, serve
from torchvision.transforms.v2 import Compose, Normalize, ToDtype, ToImage
from wsidata import TileSpec, open_wsi
from wsidata.io import add_tiles


def open_task(task: Task) -> tuple[str, Prepare]:
    """Open the slide and the model."""
    warnings.simplefilter("ignore")
    wsi = open_wsi(task.slide, store=None)
    model = TimmModel(task.model, pretrained=False)
    model.model = task.network()
    transform = Compose([ToImage(), ToDtype(torch.float32, scale=True), Normalize(task.mean, task.std)])
    spec = TileSpec.from_wsidata(wsi, tile_px=task.tile_px, mpp=task.mpp, slide_mpp=task.mpp)

    def prepare(corners: np.ndarray, batch_size: int, workers: int) -> Prepared:
        add_tiles(wsi, "tiles", corners, spec, np.zeros(len(corners), dtype=int))

        def extract() -> np.ndarray:
            return zs.tl.feature_extraction(
                wsi,
                model,
                transform=transform,
                device="cpu",
                amp=False,
                compile=False,
                batch_size=batch_size,
                num_workers=workers,
                pbar=False,
                return_features=True,
            )

        return extract

    return f"lazyslide {version('lazyslide')}, reader {wsi.reader.name}, torch {torch.__version__}", prepare


if __name__ == "__main__":
    serve(open_task)
