"""Seconds and memory of explaining a finished run; killed in the middle and resumed, it must give the same bytes.

    stimage-qupath predict SLIDE --mpp 0.69 --output run
    python tests/benchmarks/attribution_scale.py run --genes 5

Works on copies beside the run. Call it for runs of different sizes: peak memory must hardly differ.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from stimage_qupath import names

FILES = (names.CELLS_GEOJSON, names.CELLS_PARQUET, names.CELLS_H5AD, names.ATTRIBUTION_BACKGROUND)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--genes", type=int, default=5, help="how many of the run's default genes")
    parser.add_argument("--no-kill", action="store_true", help="only measure")
    return parser.parse_args()


def command(run: Path, genes: list[str], *more: str) -> list[str]:
    options = [word for gene in genes for word in ("--gene", gene)]
    return [sys.executable, "-m", "stimage_qupath", "explain", str(run), *options, "--device", "cpu", "--json", *more]


def copy_of(run: Path, name: str) -> Path:
    target = run.with_name(f"{run.name}-{name}")
    for leftover in (target, target.with_name(target.name + names.EXPLAINING_SUFFIX)):
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(shutil.copytree(run, target))


def kill_in_the_middle(run: Path, genes: list[str], blocks: int) -> int:
    """Start explaining, kill it once some blocks are finished, and return how many were."""
    store = run.with_name(run.name + names.EXPLAINING_SUFFIX)
    process = subprocess.Popen(command(run, genes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(store.glob("block*.npz"))) < blocks:
        time.sleep(0.05)
    process.kill()
    process.wait()
    return len(list(store.glob("block*.npz")))


def main() -> None:
    given = arguments()
    record = json.loads((given.run / names.RUN_JSON).read_text(encoding="utf-8"))
    genes = record["genes"][: given.genes]
    at_once = copy_of(given.run, "at-once")
    start = time.perf_counter()
    process = subprocess.Popen(command(at_once, genes), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"explain failed with {status}")
    seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    cells = record["cells"]
    print(
        f"{cells} nuclei x {len(genes)} genes: {seconds:.0f} s, {cpu:.0f} CPU s, peak {usage.ru_maxrss / 2**10:.0f} MiB"
    )
    if given.no_kill:
        return
    killed = copy_of(given.run, "killed")
    finished = kill_in_the_middle(killed, genes, blocks=3)
    untouched = all((killed / f).read_bytes() == (given.run / f).read_bytes() for f in FILES[:3])
    subprocess.run(command(killed, genes, "--resume"), check=True, stdout=subprocess.DEVNULL)
    same = [f for f in FILES if (killed / f).read_bytes() == (at_once / f).read_bytes()]
    print(f"killed after {finished} blocks, run untouched: {untouched}; resumed: {', '.join(same)} byte-identical")
    if not untouched or len(same) < len(FILES) - 1:
        sys.exit("the resumed run differs")
    for copy in (at_once, killed):
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
