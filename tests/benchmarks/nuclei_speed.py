"""Nuclei per second and peak memory: this package against StarDist on TensorFlow, one process each, same weights.

    python tests/benchmarks/nuclei_speed.py IMAGE --tensorflow /path/to/python/with/stardist-tf [--model FOLDER]

Takes the middle 4,000 x 4,000 px of the image. Without ``--model`` (a folder in StarDist's own layout) both get the
bundled model, so that they look for real nuclei: by default widened to the shape of StarDist's public 2D_versatile_he
(32 filters, 128 features) by channels that are zero, which is as much work as the public one and finds what the bundled
one finds; ``--shape bundled`` leaves it as it is. Ours is :func:`segment_regions`, outlines and measurements included,
the original's ``predict_instances_big``; neither is timed while it loads. Seconds on the clock count on a quiet machine
alone; seconds of the processor compare on a busy one too.
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
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 4000
MPP = 0.5
BLOCK = 2048
VERSATILE = (32, 128)  # filters of the first layer and features of 2D_versatile_he


def export(folder: Path, shape: str) -> None:
    """Write shape, weights and thresholds of the bundled model as plain files, for a Python without torch."""
    from stimage_qupath.nuclei.nuclei_model import bundled_folder, load_nuclei_model

    network, card = load_nuclei_model(bundled_folder())
    if shape == "versatile":
        network = widened(network)
    weights = {name: values.numpy() for name, values in network.state_dict().items()}
    names = [name for name in weights if name.split(".")[0] not in {"prob", "dist"}]
    np.savez(folder / "weights.npz", **{f"{n:02d}": weights[name] for n, name in enumerate(names)})
    heads = {f"{head}_{part}": weights[f"{head}.{part}"] for head in ("prob", "dist") for part in ("weight", "bias")}
    np.savez(folder / "heads.npz", **heads)
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(network.config).items()}
    (folder / "shape.json").write_text(json.dumps(config))
    (folder / "thresholds.json").write_text(json.dumps(card["thresholds"]))


def widened(network: Any) -> Any:
    """Return a network of the public model's shape that says the same: its further channels are zero."""
    import torch

    from stimage_qupath.nuclei.stardist_network import StarDistNetwork

    config = replace(network.config, unet_n_filter_base=VERSATILE[0], net_conv_after_unet=VERSATILE[1])
    wide = StarDistNetwork(config).eval().requires_grad_(False)
    small = dict(network.named_modules())
    for name, module in wide.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        source = small[name]
        module.weight.zero_()
        module.bias.zero_()
        out = source.weight.shape[0]
        module.bias[:out] = source.bias
        # The first convolution on the way up sees two groups of channels, half of them from the skip connection.
        groups = 2 if name.startswith("up.") and name.endswith(".0.conv") else 1
        ours, theirs = source.weight.shape[1] // groups, module.weight.shape[1] // groups
        for group in range(groups):
            part = source.weight[:, group * ours : (group + 1) * ours]
            module.weight[:out, group * theirs : group * theirs + ours] = part
    return wide


def prepare(folder: Path) -> None:
    """Have the original make a model of the exported weights, in its own layout."""
    from stardist.models import Config2D, StarDist2D

    shape = json.loads((folder / "shape.json").read_text())
    model = StarDist2D(Config2D(**shape), name=folder.name, basedir=str(folder.parent))
    exported, heads = np.load(folder / "weights.npz"), np.load(folder / "heads.npz")
    flat = iter([exported[name] for name in sorted(exported.files)])
    for layer in model.keras_model.layers:
        if not layer.get_weights():
            continue
        if layer.name in ("prob", "dist"):
            kernel, bias = heads[f"{layer.name}_weight"], heads[f"{layer.name}_bias"]
        else:
            kernel, bias = next(flat), next(flat)
        layer.set_weights([kernel.transpose(2, 3, 1, 0), bias])  # Keras: row, column, in, out
    model.keras_model.save_weights(str(folder / "weights_best.h5"))


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


def ours(image: Path, folder: Path, threads: int, *, bfloat16: bool = False) -> dict[str, float]:
    """Run this package."""
    import shapely
    import torch

    from stimage_qupath.nuclei.segment import segment_regions
    from stimage_qupath.nuclei.stardist_segmenter import StarDistSegmenter
    from stimage_qupath.results import Region
    from stimage_qupath.slide.reader import open_slide

    torch.set_num_threads(1)  # the blocks run beside one another
    segmenter = replace(StarDistSegmenter.load(folder, device=torch.device("cpu")), bfloat16=bfloat16)
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
            folder.mkdir()
            export(folder, arguments.shape)
            run(arguments.tensorflow, [*common, "prepare"], arguments.threads)
        rows = {
            "stardist + TensorFlow": run(arguments.tensorflow, [*common, "original"], arguments.threads),
            "stimage-qupath": run(sys.executable, [*common, "ours"], arguments.threads),
            "the same in bfloat16": run(sys.executable, [*common, "bfloat16"], arguments.threads),
        }
    print(f"{'':<24}{'nuclei':>8}{'s':>8}{'CPU s':>8}{'nuclei/s':>10}{'peak MiB':>10}")
    for name, row in rows.items():
        rate = row["nuclei"] / row["seconds"]
        numbers = f"{row['nuclei']:>8.0f}{row['seconds']:>8.1f}{row['processor_seconds']:>8.1f}{rate:>10.0f}"
        print(f"{name:<24}{numbers}{row['peak_mib']:>10.0f}")
    theirs, *others = rows.values()
    for name, mine in zip([*rows][1:], others, strict=True):
        speed, processor = (
            mine["nuclei"] / mine[unit] / (theirs["nuclei"] / theirs[unit]) for unit in ("seconds", "processor_seconds")
        )
        memory = mine["peak_mib"] / theirs["peak_mib"]
        print(
            f"{name}: {speed:.2f} times the original's nuclei a second, {processor:.2f} a second of the processor; ",
            end="",
        )
        print(f"{memory:.2f} times its memory")


def main() -> None:
    """Read the arguments and run what they name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--tensorflow", default=sys.executable, help="Python that has stardist and TensorFlow")
    parser.add_argument("--model", type=Path, help="folder of a StarDist model: config.json, weights_best.h5")
    parser.add_argument("--shape", choices=["versatile", "bundled"], default="versatile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=["prepare", "original", "ours", "bfloat16"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is None:
        compare(arguments)
    elif arguments.side == "prepare":
        prepare(arguments.model)
        print("{}")
    else:
        sides = {"original": original, "ours": ours, "bfloat16": partial(ours, bfloat16=True)}
        side = sides[arguments.side]
        print(json.dumps(side(arguments.image, arguments.model, arguments.threads)))


if __name__ == "__main__":
    main()
