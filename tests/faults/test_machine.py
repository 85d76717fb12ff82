"""Memory that runs out, tiles that cannot be read, files that fill up in odd places; and what other tests cover."""

from __future__ import annotations

import ast
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile

from stimage_qupath.errors import DeviceMemoryError, OutputError, of_the_machine
from stimage_qupath.models.checkpoint import load_model, save_model

TESTS = Path(__file__).parents[1]
MIB = 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("limit_mib", [1500, 2200, 3000, 4000, 6000])
def test_memory_of_the_process(
    fault: Any, start: Any, tmp_path: Path, tissue_slide: Any, square: Path, limit_mib: int
) -> None:
    fault.states(f"predict with {limit_mib} MiB of address space", expected="exit 6 and one sentence, or a whole run")
    words = ("predict", tissue_slide.path, "--output", tmp_path / "run", "--annotations", square, "--no-overview")
    ended = start(*words, limit_kib=limit_mib * MIB).end()
    fault.saw(ended.said if "Traceback" not in ended.err else f"exit {ended.code}: {ended.err.splitlines()[-1]}")
    assert ended.code in (0, 6)
    assert (ended.code == 0) == (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if ended.code == 0 else [])
    if ended.code:
        assert ended.sentence


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), DeviceMemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), DeviceMemoryError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), DeviceMemoryError),
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (OSError(errno.EROFS, "Read-only file system", "x"), OutputError),
        (OSError(errno.ENOENT, "No such file"), None),
        (RuntimeError("wires crossed"), None),
    ],
    ids=str,
)
def test_what_an_error_says_of_the_machine(error: Exception, kind: type[Exception] | None) -> None:
    found = of_the_machine(error)
    assert type(found) is kind if kind else found is None


def test_a_model_on_a_full_disk(fault: Any, disk: Any) -> None:
    fault.states("a model is saved on a disk of 64 kB", expected="exit 9, one sentence")
    model = load_model("starter")
    folder = disk("64k").path
    card = {key: model.card[key] for key in ("name", "default_genes", "encoder", "reference_total", "training")}
    with pytest.raises(OutputError, match="No space left on device; free some space") as caught:
        save_model(folder, card, model.ensemble)
    fault.saw(f"exit 9: {caught.value}".replace(str(folder), "model"))


def test_scripts_on_a_full_disk(fault: Any, disk: Any, command: Callable[..., Any]) -> None:
    fault.states("install-scripts on a disk of 4 kB", expected="exit 9, one sentence")
    user = disk("4k").path / "user"
    user.mkdir()
    ended = command("install-scripts", "--user-dir", user)
    fault.saw(ended.said)
    assert ended.code == 9


def damaged(source: Path, path: Path, tiles: int) -> Path:
    """Copy a tiled TIFF and overwrite the beginning of some tiles of its first level."""
    with tifffile.TiffFile(source) as tif:
        offsets = tif.pages[0].dataoffsets[:tiles]
    data = bytearray(source.read_bytes())
    for offset in offsets:
        data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("bad", "most", "code"), [(1, "1", 0), (1, "0.5", 0), (30, "0.01", 4)])
def test_damaged_tiles(
    fault: Any, command: Callable[..., Any], tmp_path: Path, tissue_slide: Any, square: Path,
    bad: int, most: str, code: int,
) -> None:  # fmt: skip
    fault.states(f"{bad} damaged tiles, --max-bad-tiles {most}", expected="counted and warned of; beyond: exit 4")
    slide = damaged(tissue_slide.path, tmp_path / "damaged.tif", bad)
    output = tmp_path / "run"
    words = ("segment", slide, "--output", output, "--annotations", square, "--max-bad-tiles", most)
    ended = command(*words)
    assert ended.code == code, ended.err
    if code:
        fault.saw(ended.said)
        assert "unreadable tiles" in ended.sentence
        assert not output.exists()
        return
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert record["image"]["bad_tiles"] == bad
    assert any(f"{bad} of" in warning and "could not be read" in warning for warning in record["warnings"])
    fault.saw(f"exit 0, {record['image']['bad_tiles']} of {record['image']['read_tiles']} in run.json and a warning")


COVERED = {
    "kill -9 of the worker": ("test_worker.py", "test_a_killed_worker_leaves_no_answer_and_the_next_one_cleans_up"),
    "kill -9 of explain, resumed": ("pipeline/test_explain.py", "test_killed_and_resumed_gives_the_same_bytes"),
    "kill -9 on a real slide": ("pipeline/test_resume.py", "test_a_killed_command_resumes_to_the_same_bytes"),
    "kill -9 of a process of dask": ("pipeline/test_slides.py", "test_a_worker_killed_in_the_middle_costs_nothing"),
    "a write-back is killed": ("qupath/test_guards.py", "test_a_killed_write_is_undone"),
    "a write-back is cancelled, with QuPath": (
        "qupath/test_project_round_trip.py", "test_a_cancel_during_the_write_leaves_the_project_as_it_was",
    ),
    "blocks that were cut short": ("pipeline/test_resume.py", "test_a_block_that_was_cut_short_is_made_again"),
    "SIGTERM, SIGINT": ("test_cli.py", "test_a_killed_run_leaves_nothing"),
    "the parent of the worker dies": ("test_worker.py", "test_a_worker_stops_when_its_parent_is_gone"),
    "a device is out of memory (simulated; no CUDA in these tests)": (
        "prediction/test_careful.py", "test_a_device_that_holds_no_tile_is_given_up_for_the_cpu",
    ),
    "half the batch where memory runs out": (
        "prediction/test_careful.py", "test_half_the_batch_until_it_fits_and_then_at_once",
    ),
    "an encoder returns NaN": ("prediction/test_careful.py", "test_a_feature_that_is_no_number_is_refused"),
    "a tile that cannot be decoded": ("slide/test_tiff_slide.py", "test_an_unreadable_tile_is_white_and_counted_once"),
    "a truncated TIFF": ("slide/test_tiff_slide.py", "test_a_truncated_file_is_refused"),
    "a truncated command-line image": ("test_cli.py", "test_bad_input_is_one_sentence_and_the_right_code"),
    "random documents": ("test_fuzz.py", "test_geojson"),
}  # fmt: skip


@pytest.mark.parametrize("what", COVERED)
def test_is_covered_elsewhere(fault: Any, what: str) -> None:
    file, name = COVERED[what]
    fault.states(what, expected="covered elsewhere")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    fault.saw(f"{file}::{name}")
