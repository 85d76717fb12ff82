"""Disks that are full, or that nobody may write on: small file systems in memory, mounted for the test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath import names
from stimage_qupath.errors import OutputError
from stimage_qupath.export.run_folder import read_run
from stimage_qupath.geojson_dialect import read_features

EXPECTED = "exit 9, one sentence; nothing left"


def refused(ended: Any) -> None:
    assert ended.code == 9, ended.err
    assert ended.sentence.startswith("expected to write ")


def is_readable(run: Path) -> None:
    """Read every file of a run."""
    found = read_run(run)
    assert len(found) == len(found.table()) == found.anndata().n_obs == len(read_features(found.geojson_path))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.flow
def test_run_folder_at_every_size(fault: Any, disk: Any, fill_run: Callable[[Path], Path]) -> None:
    fault.states("a run folder of 3,000 nuclei on disks of 4 kB and every 100 kB more", expected=EXPECTED)
    codes: list[int] = []
    for kib in range(4, 10_000, 100):
        small = disk(f"{kib}k")
        try:
            fill_run(small.path / "run")
        except OutputError as error:
            codes.append(error.exit_code)
            assert small.names() == []
        else:
            is_readable(small.path / "run")
            break
    fault.saw(f"exit 9 on {len(codes)} disks and nothing left, whole on the next")
    assert len(codes) > 5
    assert set(codes) == {9}


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "16k", "256k", "1440k"])
def test_segment(
    fault: Any, disk: Any, command: Callable[..., Any], tissue_slide: Any, square: Path, size: str
) -> None:
    fault.states(f"segment on a disk of {size}B", expected=EXPECTED)
    small = disk(size)
    ended = command("segment", tissue_slide.path, "--output", small.path / "run", "--annotations", square)
    fault.saw(f"{ended.said}; left: {small.names() or 'nothing'}")
    refused(ended)
    assert small.names() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kib", [4, 16, 32, 64, 256, 2048, 5100, 6000, 6600])
def test_predict(fault: Any, disk: Any, command: Callable[..., Any], tissue_slide: Any, square: Path, kib: int) -> None:
    fault.states(f"predict on a disk of {kib} kB", expected=EXPECTED)
    small = disk(f"{kib}k")
    ended = command("predict", tissue_slide.path, "--output", small.path / "run", "--annotations", square)
    fault.saw(f"{ended.said}; left: {small.names() or 'nothing'}")
    refused(ended)
    assert small.names() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("spare", [8, 64, 1024, 5100, 6000, 6600])
def test_predict_over_an_earlier_run(
    fault: Any, disk: Any, command: Callable[..., Any], tissue_slide: Any, square: Path, whole_run: Path, spare: int
) -> None:
    fault.states(f"predict --force beside an earlier run, {spare} kB free", expected=f"{EXPECTED}; earlier run whole")
    size = sum(-(-path.stat().st_size // 4096) * 4 for path in whole_run.rglob("*")) + 8
    small = disk(f"{size + spare}k")
    run = Path(shutil.copytree(whole_run, small.path / "run"))
    before = content(small.path)
    ended = command("predict", tissue_slide.path, "--output", run, "--annotations", square, "--force", "--intervals")
    fault.saw(f"{ended.said}; left: {', '.join(sorted({name.split('/')[0] for name in small.names()}))}")
    refused(ended)
    assert content(small.path) == before
    is_readable(run)


@pytest.mark.parametrize("spare", [0, 8])
@pytest.mark.parametrize("format_", ["geojson", "csv", "parquet", "h5ad"])
def test_export(fault: Any, disk: Any, command: Callable[..., Any], small_run: Path, format_: str, spare: int) -> None:
    fault.states(f"export --format {format_} --force, {spare} kB free", expected=f"{EXPECTED}; earlier file whole")
    small = disk("64k")
    output = small.path / f"cells.{format_}"
    output.write_bytes(b"earlier")
    (small.path / "ballast").write_bytes(bytes(max(0, small.free() - spare * 1024)))
    before = content(small.path)
    ended = command("export", small_run, "--output", output, "--format", format_, "--force")
    fault.saw(f"{ended.said}; left: {', '.join(small.names())}")
    refused(ended)
    assert content(small.path) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("spare", [0, 8, 1024, 5200, 6400])
def test_explain(fault: Any, disk: Any, command: Callable[..., Any], whole_run: Path, spare: int) -> None:
    fault.states(f"explain, {spare} kB free beside the run", expected="exit 9, one sentence; the run as it was")
    size = sum(-(-path.stat().st_size // 4096) * 4 for path in whole_run.rglob("*")) + 8
    small = disk(f"{size + spare}k")
    run = Path(shutil.copytree(whole_run, small.path / "run"))
    before = content(run)
    ended = command("explain", run, "--gene", "BGN")
    fault.saw(f"{ended.said}; left: {', '.join(sorted({name.split('/')[0] for name in small.names()}))}")
    refused(ended)
    assert content(run) == before
    is_readable(run)
    assert {name.split("/")[0] for name in small.names()} <= {"run", f"run{names.EXPLAINING_SUFFIX}"}


@pytest.mark.parametrize("what", ["segment", "segment into a folder of it", "export", "demo"])
def test_read_only(
    fault: Any, disk: Any, command: Callable[..., Any], tissue_slide: Any, square: Path, small_run: Path, what: str
) -> None:
    fault.states(f"{what} on a read-only disk", expected=EXPECTED)
    small = disk("64k")
    (small.path / "there").mkdir()
    small.make_read_only()
    words: dict[str, tuple[object, ...]] = {
        "segment": ("segment", tissue_slide.path, "--output", small.path / "run", "--annotations", square),
        "segment into a folder of it": (
            "segment", tissue_slide.path, "--output", small.path / "there", "--annotations", square, "--force",
        ),
        "export": ("export", small_run, "--output", small.path / "cells.csv", "--format", "csv"),
        "demo": ("demo", "--output", small.path / "demo"),
    }  # fmt: skip
    ended = command(*words[what])
    fault.saw(ended.said)
    refused(ended)
    assert "Read-only file system" in ended.sentence
    assert small.names() == ["there"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["predict", "explain", "report", "latent"])
def test_a_run_on_a_read_only_disk(
    fault: Any, disk: Any, command: Callable[..., Any], tissue_slide: Any, square: Path, whole_run: Path, what: str
) -> None:
    fault.states(f"{what} on a run on a read-only disk", expected="exit 9, one sentence; the run as it was")
    small = disk("20m")
    run = Path(shutil.copytree(whole_run, small.path / "run"))
    before = content(small.path)
    small.make_read_only()
    words: dict[str, tuple[object, ...]] = {
        "predict": ("predict", tissue_slide.path, "--output", run, "--annotations", square, "--force"),
        "explain": ("explain", run, "--gene", "BGN"),
        "report": ("report", run),
        "latent": ("latent", run),
    }
    ended = command(*words[what])
    fault.saw(ended.said)
    refused(ended)
    assert content(small.path) == before
