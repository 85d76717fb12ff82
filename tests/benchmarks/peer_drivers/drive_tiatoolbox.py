"""TIAToolbox: tiles of given corners through ``DeepFeatureExtractor.infer_wsi``; see ``serve.py``.

Its ``run`` lays the tiles itself; here its dataset is given ours, and loader and inference are those of ``run``.
"""

from __future__ import annotations

import logging
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from serve import Prepare, Prepared, Task, serve
from tiatoolbox.models.architecture.vanilla import TimmBackbone
from tiatoolbox.models.dataset import WSIPatchDataset
from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
from tiatoolbox.wsicore.wsireader import WSIReader
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Normalize, ToTensor


def open_task(task: Task) -> tuple[str, Prepare]:
    """Open the model; the slide is opened by every dataset."""
    logging.getLogger("tiatoolbox").setLevel(logging.ERROR)  # each opening of the slide says what it guessed
    logging.getLogger().setLevel(logging.ERROR)
    model = TimmBackbone(task.model, pretrained=False)
    model.feat_extract = task.network()
    normalised = Compose([ToTensor(), Normalize(task.mean, task.std)])
    engine = DeepFeatureExtractor(model=model, device="cpu", verbose=False)
    engine.model.preproc_func = lambda image: normalised(image).permute(1, 2, 0)
    reader = WSIReader.open(task.slide, mpp=(task.mpp, task.mpp), power=20)

    def prepare(corners: np.ndarray, batch_size: int, workers: int) -> Prepared:
        dataset = WSIPatchDataset(
            task.slide,
            patch_input_shape=(task.tile_px, task.tile_px),
            stride_shape=(task.tile_px, task.tile_px),
            resolution=1.0,
            units="baseline",
            auto_get_mask=False,
            preproc_func=engine.model.preproc_func,
            wsireader_kwargs={"mpp": (task.mpp, task.mpp), "power": 20},
        )
        dataset.inputs = np.hstack([corners, corners + task.tile_px])

        def extract() -> np.ndarray:
            loader = DataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)
            with tempfile.TemporaryDirectory() as folder:
                found = engine.infer_wsi(loader, Path(folder) / "cache.zarr")
                return np.asarray(found["probabilities"])

        return extract

    title = f"tiatoolbox {version('tiatoolbox')}, reader {type(reader).__name__}, torch {torch.__version__}"
    return title, prepare


if __name__ == "__main__":
    serve(open_task)
