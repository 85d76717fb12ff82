"""Tiles a second of our encoding and of another library's: same slide, tiles, weights, batches and precision, on CPU.

    python -m venv peer && peer/bin/pip install lazyslide timm
    python tests/benchmarks/peers.py --peer lazyslide --peer-python peer/bin/python

or ``tiatoolbox`` in place of ``lazyslide``. Weights are random, saved once and loaded by both. Two workloads: ``grid``,
tiles side by side, and ``nuclei``, a window on each nucleus, places as dense as in a carcinoma. The peer runs in its
own Python, through its own call for features, with the number of workers that is fastest for it. Timed is the
extraction alone: no import, no model, no tiling. Runs alternate and the median counts. Tiles a CPU second are printed
beside, since they depend less on what else the machine does.

What can be won is reading, cropping and normalising, and in convolutional networks the layout. A network that takes
nearly all of the time takes it on both sides: of resnet50 about 1.3 is left, of a vision transformer 1.

Expected: ours is at least 1.5 times as fast in every encoder and workload asked for; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from peer_drivers.serve import Task, cpu_seconds
from safetensors.torch import save_file

from stimage_qupath.models.encoders import TIMM_PREFIX, load_encoder
from stimage_qupath.models.tile_encoder import TileEncoder
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.synthetic import DENSITY_UM2, write_synthetic_slide

LEAST_RATIO = 1.5
"""Worth a user's change of tool; a smaller lead is lost in the differences between machines."""
WORKERS = (0, 1, 2)
"""Loader processes that are tried for the peer; more only wait where the network takes all cores."""
DRIVERS = Path(__file__).parent / "peer_drivers"
SIDE_PX = 12288
ORDER_PX = 512
CPU = torch.device("cpu")


def main(arguments: list[str]) -> int:
    """Print a line an encoder and workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=("lazyslide", "tiatoolbox"), default="lazyslide")
    parser.add_argument("--peer-python", required=True, help="the Python that has the peer")
    parser.add_argument("--slide", type=Path, help="default: a synthetic one")
    parser.add_argument("--encoder", nargs="+", default=["timm:mobilenetv3_small_050"])
    parser.add_argument("--workload", nargs="+", choices=("grid", "nuclei"), default=["grid", "nuclei"])
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = given.slide or folder / "slide.ome.tif"
        if given.slide is None:
            write_synthetic_slide(slide, SIDE_PX, SIDE_PX)
        for encoder_name in given.encoder:
            encoder, task = _shared(encoder_name, slide, folder / "weights.safetensors")
            ours = Ours(slide, encoder, given.batch_size)
            with Peer(given.peer, given.peer_python, task, folder, given.batch_size) as peer:
                print(f"{encoder_name}, {task.tile_px} px: torch {torch.__version__} against {peer.title}", flush=True)
                for workload in given.workload:
                    corners = _corners(workload, slide, encoder, given.tiles)
                    ratios.append(_compare(workload, corners, ours, peer, given.repeats))
    return 0 if min(ratios) >= LEAST_RATIO else 1


def _shared(name: str, slide: Path, weights: Path) -> tuple[TileEncoder, Task]:
    """Save random weights; return our encoder with them and what tells the peer of them."""
    model = name.removeprefix(TIMM_PREFIX)
    torch.manual_seed(0)
    save_file(timm.create_model(model, pretrained=False, num_classes=0).state_dict(), weights)
    encoder = load_encoder(name, weights=str(weights))
    card = encoder.card
    task = Task(
        slide=str(slide),
        model=model,
        weights=str(weights),
        tile_px=card.tile_px,
        mpp=card.mpp,
        mean=card.mean,
        std=card.std,
    )
    return encoder, task


def _corners(workload: str, path: Path, encoder: TileEncoder, tiles: int) -> NDArray[np.int64]:
    """Return the top-left corners of the tiles, (tile, 2) x and y, around the middle of the slide.

    They are sorted by squares of the size of a file's tile, which any reader with a cache is glad of.
    """
    card = encoder.card
    side = int(np.ceil(np.sqrt(tiles)))
    if workload == "grid":
        corners = np.stack(np.divmod(np.arange(tiles), side)[::-1], axis=1) * card.tile_px
        extent = side * card.tile_px
    else:
        spread = int(np.sqrt(tiles / DENSITY_UM2) / card.mpp)
        corners = np.random.default_rng(0).integers(0, spread, (tiles, 2))
        extent = spread + card.tile_px
    with open_slide(path) as slide:
        size = np.array([slide.width, slide.height])
    if (size < extent).any():
        msg = f"expected a slide of {extent} px for {tiles} tiles, found {size[0]} x {size[1]} px; pass fewer --tiles"
        raise SystemExit(msg)
    corners = corners + (size - extent) // 2
    return corners[np.lexsort((corners // ORDER_PX).T)]


@dataclass(frozen=True)
class Run:
    """Features of one pass and what it took."""

    features: NDArray[np.float32]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Ours:
    """This package: the call that predictions make, with its defaults."""

    slide: Path
    encoder: TileEncoder
    batch_size: int

    def run(self, corners: NDArray[np.int64]) -> Run:
        """Encode the tiles; the slide is opened anew, so that nothing is decoded yet."""
        card = self.encoder.card
        start, spent = time.perf_counter(), cpu_seconds()
        with open_slide(self.slide) as slide:
            points = corners + card.tile_px / 2
            features = encode_points(slide, card.mpp, points, self.encoder, device=CPU, batch_size=self.batch_size)
        return Run(features, time.perf_counter() - start, cpu_seconds() - spent)


@dataclass
class Peer:
    """The other library in its own process; a context manager."""

    name: str
    python: str
    task: Task
    folder: Path
    batch_size: int
    workers: int = 0
    title: str = field(default="", init=False)

    def __enter__(self) -> Peer:
        """Start it and wait until its model is loaded."""
        command = [self.python, str(DRIVERS / f"drive_{self.name}.py"), json.dumps(vars(self.task))]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.title = str(self._answer()["ready"])
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            msg = f"expected an answer of {self.name}, found that it ended; its messages are above"
            raise SystemExit(msg)
        return json.loads(line)

    def run(self, corners: NDArray[np.int64]) -> Run:
        """Let it encode the tiles."""
        assert self._process.stdin is not None
        where, to = self.folder / "corners.npy", self.folder / "features.npy"
        np.save(where, corners)
        asked = {"corners": str(where), "features": str(to), "batch_size": self.batch_size, "workers": self.workers}
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._answer()
        return Run(np.load(to), float(answer["seconds"]), float(answer["cpu_seconds"]))

    def choose_workers(self, corners: NDArray[np.int64]) -> None:
        """Settle on the number of loader processes that is fastest."""
        seconds = {}
        for self.workers in WORKERS:
            seconds[self.workers] = self.run(corners).seconds
        self.workers = min(seconds, key=lambda workers: seconds[workers])


def _compare(workload: str, corners: NDArray[np.int64], ours: Ours, peer: Peer, repeats: int) -> float:
    """Print and return the ratio of the medians."""
    ours.run(corners[: ours.batch_size])
    peer.run(corners[: ours.batch_size])
    peer.choose_workers(corners[: len(corners) // 2])
    runs = [(ours.run(corners), peer.run(corners)) for _ in range(repeats)]
    here, there = (len(corners) / median(run.seconds for run in side) for side in zip(*runs, strict=True))
    cpu = [len(corners) / median(run.cpu_seconds for run in side) for side in zip(*runs, strict=True)]
    mine, others = (run.features for run in runs[0])
    print(
        f"  {workload}: ours {here:.1f} tiles/s, {peer.name} {there:.1f} tiles/s with {peer.workers} workers, "
        f"ratio {here / there:.2f}; {cpu[0]:.1f} and {cpu[1]:.1f} tiles a CPU second, ratio {cpu[0] / cpu[1]:.2f}; "
        f"largest difference {np.abs(mine - others).max():.1e} where a feature varies by {mine.std(axis=0).mean():.1e}",
        flush=True,
    )
    return here / there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
