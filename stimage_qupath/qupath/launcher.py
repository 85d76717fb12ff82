"""Start a QuPath that is installed: where its launcher is, and whether the scripts work in it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from stimage_qupath.errors import MissingPartError, StimageError
from stimage_qupath.qupath.scripts import install

CHECK_SECONDS: Final = 120
"""Both sides load in seconds; a slow disk may take a minute the first time."""


def launcher_of(folder: Path) -> Path:
    """Return the program that starts the QuPath in ``folder``.

    Raises
    ------
    MissingPartError
        There is none where Linux, macOS and Windows keep it.
    """
    places = ["bin/QuPath", "Contents/MacOS/QuPath"]
    consoles = sorted(folder.glob("QuPath*(console).exe"))  # the other .exe detaches and says nothing
    found = [*consoles, *(folder / place for place in places if (folder / place).is_file())]
    if not found:
        msg = f"expected QuPath's launcher in {folder}, found none; install QuPath again or set PAQUO_QUPATH_DIR"
        raise MissingPartError(msg)
    return found[0]


def check_round_trip(folder: Path) -> str:
    """Have the QuPath in ``folder`` run ``Check setup``, which starts this package, and return what it says.

    Raises
    ------
    MissingPartError
        There is no launcher.
    StimageError
        QuPath did not answer in time, or said what went wrong.
    """
    with tempfile.TemporaryDirectory(prefix="stimage-check-", ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        install(work)
        status = work / "status.jsonl"
        words = [f"status={status}", f"runs={work / 'runs'}"]
        command = [
            launcher_of(folder),
            "script",
            *(w for word in words for w in ("-a", word)),
            work / "Check setup.groovy",
        ]
        try:
            ended = subprocess.run(
                [str(word) for word in command],
                capture_output=True, timeout=CHECK_SECONDS, check=False, env=dict(os.environ),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            msg = f"expected an answer of QuPath within {CHECK_SECONDS} s, found none; start QuPath once by hand"
            raise StimageError(msg) from error
        if not status.is_file():
            last = ended.stdout.decode(errors="replace").strip().splitlines()[-1:]
            msg = f"expected an answer of the script in QuPath, found none: {' '.join(last)}; start QuPath once by hand"
            raise StimageError(msg)
        said = json.loads(status.read_text(encoding="utf-8").splitlines()[-1])
        if said["status"] != "done":
            raise StimageError(said["message"].splitlines()[0])
        return f"QuPath {said['qupath']} and package {said['versions']['stimage-qupath']} answer each other"
