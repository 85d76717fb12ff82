"""What the drivers of all peers share; runs in the peer's Python, hence knows nothing of this package.

One JSON object a line. The command line brings a :class:`Task`; the driver loads its library and model and says
``{"ready": "<library and version>"}``. Every line on stdin is a run, ``{"corners": "x.npy", "batch_size": 32,
"workers": 0, "features": "y.npy"}``, and every answer is ``{"seconds": 1.0, "cpu_seconds": 2.0}``. The end of stdin
ends it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import timm
import torch
from safetensors.torch import load_file

Prepared = Callable[[], np.ndarray]
Prepare = Callable[[np.ndarray, int, int], Prepared]
"""Corners, batch size and workers to the call that is timed; it returns (tile, feature)."""


@dataclass(frozen=True)
class Task:
    """What stays the same from run to run.

    Attributes
    ----------
    slide
        Path.
    model
        timm's name of the network.
    weights
        Path of its safetensors.
    tile_px, mpp
        Tiles, cut from level 0.
    mean, std
        Of a colour, 0 to 1.
    """

    slide: str
    model: str
    weights: str
    tile_px: int
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def network(self) -> torch.nn.Module:
        """Return the network without its classifier, ready to infer."""
        network = timm.create_model(self.model, pretrained=False, num_classes=0)
        network.load_state_dict(load_file(self.weights))
        return network.eval()


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def serve(open_task: Callable[[Task], tuple[str, Prepare]]) -> None:
    """Answer runs until stdin ends.

    Parameters
    ----------
    open_task
        Task to the name and version of the library and its way to prepare a run.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    title, prepare = open_task(Task(**json.loads(sys.argv[1])))
    print(json.dumps({"ready": title}), file=answers)
    for line in sys.stdin:
        run = json.loads(line)
        extract = prepare(np.load(run["corners"]), run["batch_size"], run["workers"])
        start, spent = time.perf_counter(), cpu_seconds()
        features = extract()
        seconds, spent = time.perf_counter() - start, cpu_seconds() - spent
        np.save(run["features"], features)
        print(json.dumps({"seconds": seconds, "cpu_seconds": spent}), file=answers)
