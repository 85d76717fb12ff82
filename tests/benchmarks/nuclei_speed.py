"""Nuclei per second and peak memory: this package against StarDist on TensorFlow, one process each, same weights.

    python tests/benchmarks/nuclei_speed.py IMAGE --tensorflow /path/to/python/with/stardist-tf [--model FOLDER]

Takes the middle 4,000 x 4,000 px of the image. Without ``--model`` (a folder in StarDist's own layout) the original
makes one of the size of 2D_versatile_he with random weights, and a threshold that leaves 8 % of the grid as candidates.
Ours is :func:`segment_regions`, outlines and measurements included, the original's ``predict_instances_big``; neither
is timed while it loads. The figures count only on a machine that is otherwise quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 4000
MPP = 0.5
CONFIG: dict[str, Any] = {"n_rays": 32, "grid": [2, 2], "n_channel_in": 3, "unet_n_filter_base": 32, "unet_n_depth": 3}
CANDIDATES = 0.08
BLOCK = 2048


def prepare(image: Path, folder: Path) -> None:
    """Have the original make a model with random weights and a threshold that fits the image."""
    import tifffile
    from stardist.models import Config2D, StarDist2D

    model = StarDist2D(Config2D(**CONFIG), name=folder.name, basedir=str(folder.parent))
    random = np.random.default_rng(0)
    spread = [w + 0.02 * random.normal(size=w.shape) if w.ndim > 1 else w for w in model.keras_model.get_weights()]
    model.keras_model.set_weights([weights.astype(np.float32) for weights in spread])
    dist = model.keras_model.get_layer("dist")
    kernel, bias = dist.get_weights()
    dist.set_weights([kernel * 4, bias + 8])
    model.keras_model.save_weights(str(folder / "weights_best.h5"))
    pixels = normalised(tifffile.imread(image))[:1024, :1024]
    threshold = float(np.quantile(model.predict(pixels)[0], 1 - CANDIDATES))
    (folder / "thresholds.json").write_text(json.dumps({"prob": threshold, "nms": 0.4}))


def normalised(rgb: Any) -> Any:
    """Return the image as StarDist wants it."""
    low, high = np.percentile(rgb, (1, 99.8))
    return ((rgb.astype(np.float32) - low) / (high - low)).astype(np.float32)


def original(image: Path, folder: Path, threads: int) -> dict[str, float]:
    """Run StarDist on TensorFlow."""
    import tensorflow as tf
    import tifffile
    from stardist.models import StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = StarDist2D(None, name=folder.name, basedir=str(folder.parent))
    model.predict(np.zeros((256, 256, 3), dtype=np.float32))  # traces the graph
    start, cpu = time.perf_counter(), time.process_time()
    pixels = normalised(tifffile.imread(image))
    options: dict[str, Any] = {"block_size": BLOCK, "min_overlap": 128, "context": 128, "show_progress": False}
    _, found = model.predict_instances_big(pixels, axes="YXC", **options)
    return measured(len(found["points"]), start, cpu)


def ours(image: Path, folder: Path, threads: int) -> dict[str, float]:
    """Run this package."""
    import shapely
    import torch

    from stimage_qupath.nuclei.segment import segment_regions
    from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter
    from stimage_qupath.results import Region
    from stimage_qupath.slide.reader import open_slide

    torch.set_num_threads(1)  # the blocks run beside one another
    segmenter = StarDistSegmenter.load(folder, device=torch.device("cpu"))
    start, cpu = time.perf_counter(), time.process_time()
    with open_slide(image) as slide:
        whole = Region(id="whole", geometry=shapely.box(0, 0, slide.width, slide.height))
        chunks = segment_regions(slide, MPP, [whole], segmenter, image_id="image", threads=threads)
        count = sum(len(chunk.cells) for chunk in chunks)
    return measured(count, start, cpu)


def measured(count: int, start: float, cpu: float) -> dict[str, float]:
    """Return nuclei, seconds on the clock and of the processor, and peak memory in MiB."""
    seconds, processor = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"nuclei": count, "seconds": seconds, "processor_seconds": processor, "peak_mib": peak}


def run(python: str, words: list[str], threads: int) -> dict[str, float]:
    """Run one side in a process of its own and return what it measured."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    environment = {**os.environ, **limits, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, __file__, *words], check=True, stdout=subprocess.PIPE, env=environment)
    answer: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    return answer


def compare(arguments: argparse.Namespace) -> None:
    """Make image and model, run both sides, print the table."""
    import tifffile
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as made:
        pixels = np.asarray(Image.open(arguments.image).convert("RGB"))
        top, left = (max(0, n - SIDE) // 2 for n in pixels.shape[:2])
        image, folder = Path(made) / "image.tif", arguments.model or Path(made) / "model"
        scale = 1e4 / MPP
        form: dict[str, Any] = {"photometric": "rgb", "tile": (256, 256), "resolutionunit": "CENTIMETER"}
        part = pixels[top : top + SIDE, left : left + SIDE]
        tifffile.imwrite(image, part, resolution=(scale, scale), **form)
        common = [str(image), "--threads", str(arguments.threads), "--model", str(folder), "--side"]
        if arguments.model is None:
            run(arguments.tensorflow, [*common, "prepare"], arguments.threads)
        rows = {
            "stardist + TensorFlow": run(arguments.tensorflow, [*common, "original"], arguments.threads),
            "stimage-qupath": run(sys.executable, [*common, "ours"], arguments.threads),
        }
    print(f"{'':<24}{'nuclei':>8}{'s':>8}{'CPU s':>8}{'nuclei/s':>10}{'peak MiB':>10}")
    for name, row in rows.items():
        rate = row["nuclei"] / row["seconds"]
        numbers = f"{row['nuclei']:>8.0f}{row['seconds']:>8.1f}{row['processor_seconds']:>8.1f}{rate:>10.0f}"
        print(f"{name:<24}{numbers}{row['peak_mib']:>10.0f}")
    theirs, mine = rows.values()
    speed = (mine["nuclei"] / mine["seconds"]) / (theirs["nuclei"] / theirs["seconds"])
    memory = mine["peak_mib"] / theirs["peak_mib"]
    print(f"nuclei per second: {speed:.2f} times the original's; memory: {memory:.2f} times")


def main() -> None:
    """Read the arguments and run what they name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--tensorflow", default=sys.executable, help="Python that has stardist and TensorFlow")
    parser.add_argument("--model", type=Path, help="folder of a StarDist model: config.json, weights_best.h5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["prepare", "original", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is None:
        compare(arguments)
    elif arguments.side == "prepare":
        prepare(arguments.image, arguments.model)
        print("{}")
    else:
        side = original if arguments.side == "original" else ours
        print(json.dumps(side(arguments.image, arguments.model, arguments.threads)))


if __name__ == "__main__":
    main()
