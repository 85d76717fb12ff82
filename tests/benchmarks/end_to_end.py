"""A whole prediction against its networks alone, and ten members against one.

    python tests/benchmarks/end_to_end.py [--cells 20000] [--segmenter classical|he] [--repeats 3]

``whole`` is the flow from slide to run folder (GeoJSON, AnnData, Parquet), model loading included. ``bare`` is the
segmenter's labelling, the encoder and the heads on the same pixels and features, which lie in memory already; labelling
uses as many threads as the flow does. The two are run in turn. Expected: whole / bare at most 1.25, and an ensemble of
ten at most 1.2 times one member end to end; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.config import PredictSettings
from stimage_qupath.models.checkpoint import Model, load_model
from stimage_qupath.nuclei.registry import choose_segmenter
from stimage_qupath.nuclei.segment import segment_regions
from stimage_qupath.nuclei.segmenter import BoundSegmenter
from stimage_qupath.pipeline import predict
from stimage_qupath.pipeline.inputs import open_input
from stimage_qupath.prediction.stream import plan_windows
from stimage_qupath.results import never_cancelled
from stimage_qupath.slide.synthetic import DENSITY_UM2, write_synthetic_slide

MOST_OVER_BARE = 1.25
MOST_OVER_ONE = 1.2
THREADS = 2
CPU = torch.device("cpu")


@dataclass
class Preloaded:
    """What the networks are given: pixels of blocks and windows, and features."""

    model: Model
    segmenter: BoundSegmenter
    blocks: list[NDArray[np.uint8]]
    windows: list[tuple[NDArray[np.uint8], NDArray[np.float64]]]
    features: list[NDArray[np.float32]]

    def label(self) -> None:
        """Label the blocks in threads."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self.segmenter.label, self.blocks))

    def encode(self) -> None:
        """Encode the windows."""
        for image, centres in self.windows:
            encode(self.model, image, centres)

    def heads(self) -> None:
        """Run the heads."""
        for features in self.features:
            self.model.ensemble.predict(features, device=CPU)


def encode(model: Model, image: NDArray[np.uint8], centres: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return features as the flow has them made."""
    return model.encoder.encode(image, centres, device=CPU, batch_size=64, cancelled=never_cancelled)


class Recording:
    """A segmenter that keeps the pixels it is given."""

    def __init__(self, name: str) -> None:
        self._original = choose_segmenter(name, device=CPU)
        self.mpp, self.halo_um, self.stride = self._original.mpp, self._original.halo_um, self._original.stride
        self.identity = self._original.identity
        self.blocks: list[NDArray[np.uint8]] = []

    def calibrate(self, *args: object) -> Recording:
        """Calibrate the original."""
        self.bound = self._original.calibrate(*args)  # type: ignore[arg-type]
        return self

    def label(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Keep the pixels and label them."""
        self.blocks.append(rgb)
        return self.bound.label(rgb)


def preload(settings: PredictSettings, model: Model) -> Preloaded:
    """Go through the slide once, as the flow does, and keep what the networks are given."""
    recording, windows, features = Recording(settings.segmenter), [], []
    with open_input(settings) as source:
        chunks = segment_regions(source.slide, source.mpp, source.regions, recording, image_id="x", threads=THREADS)
        for chunk in chunks:
            points = chunk.cells.centroids_px
            for window in plan_windows(points, model.encoder.card, source.slide, source.mpp):
                windows.append((window.read(source.slide), window.centres))
                features.append(encode(model, *windows[-1]))
    return Preloaded(model, recording.bound, recording.blocks, windows, features)


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def one_member(model: Model) -> Model:
    """Return the model with the first of its members alone."""
    heads = model.ensemble.heads
    first = {name: getattr(heads, name)[:1] for name in ("projection", "loading", "bias", "log_total_count")}
    return replace(model, ensemble=replace(model.ensemble, heads=replace(heads, **first)))


def main(arguments: list[str]) -> int:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--segmenter", default="classical")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    side = int(np.sqrt(given.cells / DENSITY_UM2 / 0.66) / 0.5)
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "slide.ome.tif"
        write_synthetic_slide(slide, side, side)
        settings = PredictSettings(
            image=slide, output=Path(folder) / "run", segmenter=given.segmenter, overview=False, force=True
        )
        model = load_model("starter")
        alone = one_member(model)
        bare = preload(settings, model)
        predict.run(settings)  # everything is loaded and warm from here on
        rows = [
            {
                "whole": seconds(lambda: predict.run(settings)),
                "label": seconds(bare.label),
                "encode": seconds(bare.encode),
                "heads": seconds(bare.heads),
                "ten": seconds(lambda: predict.run(settings, model=model)),
                "one": seconds(lambda: predict.run(settings, model=alone)),
            }
            for _ in range(given.repeats)
        ]
        cells = predict.run(settings)["cells"]
    for row in rows:
        print(", ".join(f"{name} {value:.2f} s" for name, value in row.items()))
    over_bare = statistics.median(row["whole"] / (row["label"] + row["encode"] + row["heads"]) for row in rows)
    over_one = statistics.median(row["ten"] / row["one"] for row in rows)
    whole = statistics.median(row["whole"] for row in rows)
    print(f"{cells:,} nuclei in {whole:.1f} s: {cells / whole:,.0f} a second")
    print(f"whole over bare {over_bare:.3f}, ten members over one {over_one:.3f} (medians of {given.repeats})")
    return 0 if over_bare <= MOST_OVER_BARE and over_one <= MOST_OVER_ONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
