"""Finished blocks of a long flow on disk, so that an interrupted one can go on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import OutputExistsError, UsageError
from stimage_qupath.geojson_dialect.disk import output_errors

MANIFEST: Final = "manifest.json"

Block: TypeAlias = tuple[int | str, ...]
"""Row and column, and where a flow has several kinds of blocks what tells them apart: parts of a file name."""


class BlockStore:
    """A folder with a manifest, which says what the blocks are of, and one file a block.

    Parameters
    ----------
    folder
        Where; made if it is not there.
    manifest
        JSON-able settings that the blocks depend on.
    resume
        Keep blocks of an earlier flow; else they are removed.

    Raises
    ------
    UsageError
        To be resumed is a flow with another manifest.
    OutputExistsError
        The folder holds something else.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        wanted = json.loads(json.dumps(manifest))
        found = _manifest(folder)
        if found is not None and resume and found != wanted:
            changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            msg = f"expected to resume with the same settings, found another {', '.join(changed)}; leave --resume out"
            raise UsageError(msg)
        with output_errors(folder):
            if found is not None and not resume:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                _write_whole(folder / MANIFEST, json.dumps(wanted, indent=2).encode())
            except OSError:
                if found is None or not resume:  # there is no block in it yet
                    self.remove()
                raise

    def __contains__(self, block: Block) -> bool:
        """Return whether a block is finished."""
        return self._path(block).is_file()

    def save(self, block: Block, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays of a block; OutputError if the disk is full."""
        path = self._path(block)
        draft = path.with_suffix(".draft")
        with output_errors(path):
            with draft.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]  # its other arguments are flags
            draft.replace(path)

    def load(self, block: Block) -> dict[str, NDArray[Any]]:
        """Return the arrays of a finished block."""
        with self._path(block).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)

    def remove(self) -> None:
        """Remove the folder: the flow is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: Block) -> Path:
        return self.folder / f"block_{'_'.join(map(str, block))}.npz"


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in ``folder``, None where there is no folder, or one that was killed as it was made."""
    draft = (folder / MANIFEST).with_suffix(".draft")
    if not folder.exists() or (folder.is_dir() and set(folder.iterdir()) <= {draft}):
        return None
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        msg = f"expected the blocks of an interrupted flow in {folder}, found something else; move it away"
        raise OutputExistsError(msg)
    return found


def _write_whole(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(data)
    draft.replace(path)
