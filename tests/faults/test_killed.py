"""Processes that are killed without a word, in every stage, and two that want the same output."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath import names
from stimage_qupath.export.run_folder import read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there"),
]

CELLS = (names.CELLS_GEOJSON, names.CELLS_PARQUET, names.CELLS_H5AD)
STAGES = {
    "reading": ("stimage_qupath.pipeline.inputs:clip_to_image", 0),
    "nuclei": ("stimage_qupath.nuclei.blocks:BlockReader.nuclei", 2),
    "encode": ("stimage_qupath.pipeline.kept_blocks:_KeptEncoder.encode", 1),
    "write": ("stimage_qupath.export.run_folder:RunWriter.append", 1),
    "overview": ("stimage_qupath.report.overview:draw_overviews", 0),
    "publish": ("stimage_qupath.export.partial_folder:_flush", 0),
}
LATE = {
    "explain": ("stimage_qupath.pipeline.explain:_Explainer.explain", 0),
    "report": ("stimage_qupath.pipeline.report:run", 0),
}


def cells(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in CELLS}


def beside(folder: Path) -> list[str]:
    """Return what stands in a folder, without the random part of names."""
    return sorted(".".join(p for p in path.name.split(".") if len(p) != 8) for path in folder.iterdir())


@pytest.fixture(autouse=True)
def small_blocks_here(monkeypatch: pytest.MonkeyPatch, small_blocks: str) -> None:
    """Make blocks small in this process too."""
    import stimage_qupath.pipeline.predict as flow

    monkeypatch.setattr(flow, "choose_nuclei", flow.choose_nuclei)  # undone at the end
    exec(small_blocks, {})


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a folder with files of a user that look a little like ours."""
    folder = tmp_path / "work"
    (folder / "mine.partial").mkdir(parents=True)
    (folder / "mine.partial" / "thesis.txt").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder


MINE = ["mine.partial", "notes.txt"]


def mine_is_untouched(work: Path) -> None:
    assert (work / "mine.partial" / "thesis.txt").read_text() == (work / "notes.txt").read_text() == "mine"


@pytest.fixture
def predict_words(tissue_slide: Any, square: Path) -> Callable[[Path], list[object]]:
    """Return a function that gives the words of the prediction that ``whole_run`` is."""

    def words(output: Path) -> list[object]:
        return ["predict", tissue_slide.path, "--output", output, "--annotations", square, "--genes", "BGN"]

    return words


@pytest.mark.parametrize("stage", STAGES)
def test_predict_killed(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str, stage: str
) -> None:
    fault.states(f"kill -9 of predict in stage {stage}", expected="no output; --resume ends in the same bytes")
    words = predict_words(work / "run")
    place, after = STAGES[stage]
    process = start(*words, before=small_blocks, wait_in=place, after=after)
    process.wait_until_waiting()
    process.kill()
    left = [name for name in beside(work) if name not in MINE]
    fault.saw(f"left by the killed: {', '.join(left) or 'nothing'}")
    assert not (work / "run").exists()
    blocks = len(list((work / f"run{names.BLOCKS_SUFFIX}").glob("block_*.npz")))
    ended = command(*words, "--resume")
    assert ended.code == 0, ended.err
    assert cells(work / "run") == cells(whole_run)
    assert beside(work) == sorted([*MINE, "run"])
    mine_is_untouched(work)
    fault.saw(f"resumed with {blocks} blocks: same bytes, nothing beside")


@pytest.mark.parametrize("stage", LATE)
def test_predict_killed_after_it_was_published(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str, stage: str
) -> None:
    fault.states(f"kill -9 of predict in stage {stage}", expected="the run whole; the command makes up for it")
    words = [*predict_words(work / "run"), *(("--explain", "BGN") if stage == "explain" else ("--report",))]
    place, after = LATE[stage]
    process = start(*words, before=small_blocks, wait_in=place, after=after)
    process.wait_until_waiting()
    process.kill()
    left = [name for name in beside(work) if name not in MINE]
    fault.saw(f"left by the killed: {', '.join(left)}")
    assert cells(work / "run") == cells(whole_run)
    more = ("--gene", "BGN", "--resume") if stage == "explain" else ()
    ended = command(stage, work / "run", *more)
    assert ended.code == 0, ended.err
    assert beside(work) == sorted([*MINE, "run"])
    assert len(read_run(work / "run")) == len(read_run(whole_run))
    mine_is_untouched(work)
    fault.saw(f"{stage} then passes, nothing beside")


def test_predict_killed_while_an_earlier_run_is_replaced(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str
) -> None:
    fault.states("kill -9 of predict --force while it writes", expected="the earlier run stays whole; again passes")
    shutil.copytree(whole_run, work / "run")
    words = [*predict_words(work / "run"), "--force"]
    process = start(*words, before=small_blocks, wait_in=STAGES["publish"][0])
    process.wait_until_waiting()
    process.kill()
    assert cells(work / "run") == cells(whole_run)
    assert command(*words).code == 0
    assert cells(work / "run") == cells(whole_run)
    assert beside(work) == sorted([*MINE, "run"])
    mine_is_untouched(work)
    fault.saw("earlier run whole; the next replaces it, nothing beside")


def test_predict_killed_between_the_two_renames(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str
) -> None:
    fault.states("kill -9 of --force between its two renames", expected="the next start brings the earlier run back")
    shutil.copytree(whole_run, work / "run")
    words = [*predict_words(work / "run"), "--force"]
    process = start(*words, before=small_blocks, wait_in="pathlib:Path.rename", after=1)
    process.wait_until_waiting()
    process.kill()
    fault.saw(f"left by the killed: {', '.join(name for name in beside(work) if name not in MINE)}")
    ended = command(*predict_words(work / "run"))  # without --force: the earlier run is there again, or this one is
    fault.saw(f"next: {ended.said}; then {', '.join(name for name in beside(work) if name not in MINE)}")
    assert cells(work / "run") == cells(whole_run)
    assert command(*words).code == 0  # the next that works removes what the killed one left
    assert cells(work / "run") == cells(whole_run)
    assert beside(work) == sorted([*MINE, "run"])


def test_segment_killed(
    fault: Any, start: Any, command: Any, work: Path, tissue_slide: Any, square: Path, small_blocks: str
) -> None:
    fault.states("kill -9 of segment", expected="no output; --resume ends in the same bytes")
    words = ["segment", tissue_slide.path, "--annotations", square, "--output"]
    place, after = STAGES["nuclei"]
    process = start(*words, work / "run", before=small_blocks, wait_in=place, after=after)
    process.wait_until_waiting()
    process.kill()
    assert not (work / "run").exists()
    assert command(*words, work / "run", "--resume").code == 0
    assert command(*words, work / "whole").code == 0
    assert cells(work / "run") == cells(work / "whole")
    assert beside(work) == sorted([*MINE, "run", "whole"])
    mine_is_untouched(work)
    fault.saw("no output; same bytes, nothing beside")


@pytest.mark.parametrize("format_", ["csv", "geojson", "h5ad", "parquet"])
def test_export_killed(fault: Any, start: Any, command: Any, work: Path, small_run: Path, format_: str) -> None:
    fault.states("kill -9 of export", expected="no output; the next export leaves nothing beside")
    output = work / f"cells.{format_}"
    words = ["export", small_run, "--output", output, "--format", format_]
    process = start(*words, wait_in="pathlib:Path.replace")
    process.wait_until_waiting()
    process.kill()
    assert not output.exists()
    left = [name for name in beside(work) if name not in MINE]
    assert command(*words).code == 0
    after = beside(work)
    fault.saw(f"left by the killed: {', '.join(left)}; after the next export: {', '.join(after)}")
    assert after == sorted([*MINE, output.name])
    mine_is_untouched(work)


@pytest.mark.parametrize("more", [(), ("--force",), ("--resume",)], ids=["", "force", "resume"])
def test_two_at_once(
    fault: Any, start: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str, more: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    fault.states(
        f"two processes, one output {' '.join(more)}",
        expected="one passes; the other: exit 2, a sentence with process and host; the result whole",
    )
    words = [*predict_words(work / "run"), *more]
    both = [start(*words, before=small_blocks) for _ in range(2)]
    ended = [one.end() for one in both]
    fault.saw(f"exits {' and '.join(str(one.code) for one in ended)}")
    for one in ended:
        if one.code:
            fault.saw(one.err.strip().splitlines()[-1][:200].replace(str(work), ""))
    assert sorted(one.code for one in ended) == [0, 2]
    (loser,) = (one for one in ended if one.code)
    (winner,) = (process for process, end in zip(both, ended, strict=True) if not end.code)
    assert str(winner.process.pid) in loser.sentence
    assert cells(work / "run") == cells(whole_run)
    assert beside(work) == sorted([*MINE, "run"])


@pytest.mark.parametrize("more", [(), ("--force",), ("--resume",)], ids=["", "force", "resume"])
def test_a_second_one_while_the_first_is_at_work(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, small_blocks: str, more: tuple[str, ...]
) -> None:
    fault.states(
        f"a second predict {' '.join(more)} while the first encodes",
        expected="exit 2, a sentence with process and host; the first one's blocks stay",
    )
    words = [*predict_words(work / "run"), *more]
    first = start(*words, before=small_blocks, wait_in=STAGES["encode"][0], after=1)
    first.wait_until_waiting()
    blocks = work / f"run{names.BLOCKS_SUFFIX}"
    before = {path.name: path.stat().st_mtime_ns for path in blocks.glob("block_*")}
    ended = command(*words)
    after = {path.name: path.stat().st_mtime_ns for path in blocks.glob("block_*")}
    first.kill()
    fault.saw(f"second: {ended.said}; blocks of the first: {len(before)} before, {len(before.keys() & after)} after")
    assert ended.code == 2
    assert str(first.process.pid) in ended.sentence
    assert before.items() <= after.items()  # its threads may have gone on


def test_a_chain_of_kills(
    fault: Any, start: Any, command: Any, work: Path, predict_words: Any, whole_run: Path, small_blocks: str
) -> None:
    fault.states("kill -9 five times at any moment, each resumed", expected="the last ends in the same bytes")
    words = [*predict_words(work / "run"), "--resume"]
    blocks = work / f"run{names.BLOCKS_SUFFIX}"
    kept = []
    for moment in range(5):
        process = start(*words, before=small_blocks)
        until = time.monotonic() + 200
        had = len(list(blocks.glob("block_*.npz")))
        while len(list(blocks.glob("block_*.npz"))) <= had and process.process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.02 * moment)
        process.kill()
        kept.append(len(list(blocks.glob("block_*.npz"))))
        if (work / "run").exists():
            break
    else:
        assert command(*words).code == 0
    assert cells(work / "run") == cells(whole_run)
    assert beside(work) == sorted([*MINE, "run"])
    mine_is_untouched(work)
    fault.saw(f"blocks kept after each kill: {', '.join(map(str, kept))}; same bytes")


def test_killed_while_the_table_of_slides_is_written(
    fault: Any, start: Any, command: Any, work: Path, tissue_slide: Any, square: Path
) -> None:
    fault.states("kill -9 while run.json of a table of slides is replaced", expected="valid JSON; --resume passes")
    table = work / "slides.csv"
    rows = "".join(f"{tissue_slide.path},s{i},{square}\n" for i in range(2))
    table.write_text(f"image,name,annotations\n{rows}", encoding="utf-8")
    words = ["predict", table, "--output", work / "out", "--no-overview", "--genes", "BGN"]
    process = start(*words, before=HALF_WRITTEN)
    process.wait_until_waiting()
    process.kill()
    record = json.loads((work / "out" / names.RUN_JSON).read_text(encoding="utf-8"))
    fault.saw(f"states {', '.join(row['status'] for row in record['images'])}")
    assert command(*words, "--resume").code == 0
    record = json.loads((work / "out" / names.RUN_JSON).read_text(encoding="utf-8"))
    assert [row["status"] for row in record["images"]] == ["done", "done"]
    assert sorted(path.name for path in (work / "out").iterdir()) == [names.RUN_JSON, "s0", "s1"]
    fault.saw("resumed: done, done")


HALF_WRITTEN = """
import pathlib, sys, time
original = pathlib.Path.write_bytes
def half(self, data, calls=[]):
    if "run.json" in self.name and b'"kind": "slides"' in data:
        calls.append(1)
        if len(calls) > 1:
            original(self, data[: len(data) // 2])
            print("WAITING", file=sys.stderr, flush=True)
            time.sleep(600)
    return original(self, data)
pathlib.Path.write_bytes = half
"""
