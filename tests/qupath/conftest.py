"""A real QuPath for the tests that need one, and one line at the end where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stimage_qupath.qupath.client import BridgeClient

SKIPPED = pytest.StashKey[int]()


@cache
def _has_qupath() -> bool:
    with BridgeClient() as client:
        return client.has_qupath()


@pytest.hookimpl(trylast=True)  # after the deselection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    needing = [item for item in items if item.get_closest_marker("qupath") and here in item.path.parents]
    if needing and not _has_qupath():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no QuPath (set PAQUO_QUPATH_DIR)"))
        config.stash[SKIPPED] = len(needing)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.stash.get(SKIPPED, 0):
        terminalreporter.write_line(f"qupath: {config.stash[SKIPPED]} tests skipped, no QuPath")


@pytest.fixture(scope="session")
def bridge() -> Iterator[BridgeClient]:
    """QuPath's process, one for all tests."""
    with BridgeClient() as client:
        yield client


SESSION = """
import json, sys
from stimage_qupath.qupath.project.jvm import start_qupath
start_qupath()
from jpype import JArray, JClass, JDouble
from paquo.projects import QuPathProject
from shapely.geometry import *
arguments = json.loads(sys.argv[1])
def main(arguments):
{body}
print("RESULT" + json.dumps(main(arguments)))
"""


@pytest.fixture(scope="session")
def in_qupath() -> Callable[..., Any]:
    """Return a function that runs the body of a function of ``arguments`` beside a JVM of its own, through paquo."""

    def run(body: str, **arguments: Any) -> Any:
        indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
        code = SESSION.replace("{body}", indented)
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(arguments)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=240,
            env=dict(os.environ),
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        assert lines, done.stderr[-3000:]
        return json.loads(lines[-1].removeprefix("RESULT"))

    return run
