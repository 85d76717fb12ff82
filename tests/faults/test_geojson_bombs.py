"""GeoJSON that is small on the disk and large in memory, or deep, or long: read or refused, never at any cost."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COLLECTION = b'{"type":"FeatureCollection","features":['
TINY = b'{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[9,0],[9,9],[0,9],[0,0]]]}'
DEEP = 100_000
READ = """
import json, resource, sys, time
from pathlib import Path
from stimage_qupath.errors import StimageError
from stimage_qupath.regions.annotations import read_regions
start = time.monotonic()
try:
    code, said = 0, f"read, {len(read_regions(Path(sys.argv[1])).regions)} regions"
except StimageError as error:
    code, said = error.exit_code, str(error)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
if sys.platform == "linux":  # where a process begins with the peak of its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"code": code, "said": said, "mib": round(peak), "seconds": time.monotonic() - start}))
"""


def read(path: Path) -> dict[str, Any]:
    """Read the regions of a file in a process of its own and say what it took."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert "\n" not in found["said"]
    assert len(found["said"]) < 500
    return found


def packed(path: Path, head: bytes, unit: bytes, times: int, tail: bytes = b"") -> None:
    """Write ``head``, ``unit`` so many times, and ``tail``, as gzip and without holding them."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with path.open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(times):
            file.write(packer.compress(unit))
        file.write(packer.compress(tail) + packer.flush())


def many(path: Path, unit: bytes, times: int) -> None:
    with path.open("wb") as file:
        file.write(COLLECTION)
        for start in range(0, times, 1000):
            file.write((b"," if start else b"") + b",".join([unit] * 1000))
        file.write(b"]}")


def circle(path: Path, vertices: int) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write('{"type":"Polygon","coordinates":[[')
        for start in range(0, vertices, 100_000):
            angles = [2 * math.pi * i / vertices for i in range(start, start + 100_000)]
            file.write("".join(f"[{5000 + 4000 * math.cos(a):.3f},{5000 + 4000 * math.sin(a):.3f}]," for a in angles))
        file.write("[9000.000,5000.000]]]}")


def sparse(path: Path, size: int) -> None:
    """Make a file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


deep: list[tuple[str, Callable[[Path], Any]]] = [
    ("arrays", lambda p: p.write_bytes(b"[" * DEEP + b"]" * DEEP)),
    ("feature collections", lambda p: p.write_bytes(COLLECTION * DEEP + TINY + b"}" + b"]}" * DEEP)),
    ("childObjects", lambda p: p.write_bytes((TINY + b',"childObjects":[') * DEEP + TINY + b"}" + b"]}" * DEEP)),
    ("objects with a NaN", lambda p: p.write_bytes(b'{"a":NaN,"features":[' * DEEP + b"]}" * DEEP)),
]
name = b',"properties":{"name":"' + b"x" * 10**8 + b'"}}'
BOMBS: list[Any] = [
    *(pytest.param(f"{DEEP:,} {what} in one another", write, (2,), 150, id=f"deep {what}") for what, write in deep),
    pytest.param(
        "8 GiB of spaces in 8 MB of gzip",
        lambda p: packed(p, COLLECTION, b" " * 2**20, 2**13, b"]}"),
        (2,), 150, id="gzip spaces", marks=pytest.mark.slow,
    ),
    pytest.param(
        "256 MiB of spaces in 256 kB of gzip",
        lambda p: packed(p, COLLECTION, b" " * 2**20, 2**8, b"]}"),
        (2,), 150, id="gzip spaces small",
    ),
    pytest.param(
        "44 million empty lists in 130 kB of gzip",
        lambda p: packed(p, b"[", b"[]," * 2**18, 170, b"[]]"),
        (2,), 150, id="gzip lists",
    ),
    pytest.param("5 GiB of zeros", lambda p: sparse(p, 5 * 2**30), (2,), 150, id="zeros"),
    pytest.param("a name of 100 MB", lambda p: p.write_bytes(TINY + name), (2,), 400, id="long name"),
    pytest.param(
        "a type of 100 MB", lambda p: p.write_bytes(b'{"type":"' + b"x" * 10**8 + b'"}'), (2,), 400, id="long type"
    ),
    pytest.param(
        "a million tiny features", lambda p: many(p, TINY + b"}", 10**6), (0, 2), 3000,
        id="many features", marks=[pytest.mark.slow, pytest.mark.timeout(1200)],
    ),
    pytest.param(
        "a ring of 10,000,000 vertices", lambda p: circle(p, 10**7), (0, 2), 3000,
        id="many vertices", marks=[pytest.mark.slow, pytest.mark.timeout(900)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("what", "write", "codes", "most_mib"), BOMBS)
def test_bomb(
    fault: Any, tmp_path: Path, what: str, write: Callable[[Path], Any], codes: tuple[int, ...], most_mib: int
) -> None:
    fault.states(f"GeoJSON: {what}", expected=f"{'read or ' if 0 in codes else ''}exit 2; at most {most_mib:,} MiB")
    path = tmp_path / "bomb.geojson"
    write(path)
    found = read(path)
    fault.saw(f"exit {found['code']} in {found['mib']:,} MiB, {found['seconds']:.0f} s: {found['said'][:110]}")
    assert found["code"] in codes
    assert found["mib"] < most_mib
