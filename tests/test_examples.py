"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flow

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("examples") / "run"
    return output, run("01_predict.py", output)


def test_predict_prints_a_table(run_folder):
    output, printed = run_folder
    assert "COL1A1_mean" in printed
    assert (output / "overview_ERBB2.png").is_file()


def test_the_whole_panel_opens(run_folder):
    printed = run("02_whole_panel.py", run_folder[0])
    assert "largest epistemic share" in printed
    assert printed.count("\n  ") >= 10


def test_there_is_no_example_that_no_test_runs():
    assert [p.name for p in sorted(EXAMPLES.glob("*.py"))] == ["01_predict.py", "02_whole_panel.py", "03_train.py"]
