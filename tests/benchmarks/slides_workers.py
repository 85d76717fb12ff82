"""Two processes against one over eight synthetic slides.

    python tests/benchmarks/slides_workers.py [--cells 3000] [--repeats 3]

Both start their processes anew and load the model in each, and take turns. Expected: the median time of one is at least
1.6 times that of two on two cores; else the exit code is 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stimage_qupath.process import set_up

SLIDES = 8
LEAST_RATIO = 1.6


def main(arguments: list[str]) -> int:
    """Print the seconds of one and of two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    set_up()
    from stimage_qupath.config import SlidesSettings  # here, since each process loads what stands above anew
    from stimage_qupath.pipeline import slides
    from stimage_qupath.slide.synthetic import DENSITY_UM2, write_synthetic_slide

    side = int(np.sqrt(given.cells / DENSITY_UM2 / 0.66) / 0.5)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "slides.csv"
        for number in range(SLIDES):
            write_synthetic_slide(Path(folder) / f"s{number}.ome.tif", side, side, seed=number)
        table.write_text("image\n" + "".join(f"s{n}.ome.tif\n" for n in range(SLIDES)), encoding="utf-8")
        for workers in (1, 2) * given.repeats:
            settings = SlidesSettings(
                image=table,
                output=Path(folder) / f"out{workers}",
                executor="dask",
                workers=workers,
                overview=False,
                force=True,
            )
            start = time.perf_counter()
            record = slides.run(settings)
            seconds[workers].append(time.perf_counter() - start)
            print(f"{workers} processes: {record['cells']:,} nuclei of {SLIDES} slides in {seconds[workers][-1]:.1f} s")
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
    print(f"ratio {ratio:.2f}")
    return 0 if ratio >= LEAST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
