"""A folder that appears under its name only when it is whole, and never at the cost of what was there."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stimage_qupath import names
from stimage_qupath.errors import OutputExistsError
from stimage_qupath.export.lock import Owner, sibling_of_ours, siblings_of_the_dead
from stimage_qupath.geojson_dialect.disk import output_errors

OWNER_FILE: Final = ".stimage-owner.json"
"""Says which process fills a partial folder, so that those of dead processes can be removed."""


class PartialFolder:
    """Context manager around a sibling ``NAME.<random>.partial`` of ``output`` that :meth:`publish` renames to it.

    Leaving the context without :meth:`publish` removes the partial folder, whatever the reason. A process that is
    killed leaves it behind; the next one that writes into the same parent removes it.

    Parameters
    ----------
    output
        Final name. A folder there is replaced only by :meth:`publish`, and only with ``force``.
    force
        Whether an existing folder may be replaced.
    why_keep
        Looks at an existing folder and says what in it must not be lost (``"found ..."`` of the message), or None.

    Raises
    ------
    OutputExistsError
        ``output`` is there and may not be replaced; raised at construction.
    """

    def __init__(self, output: Path, *, force: bool, why_keep: Callable[[Path], str | None]) -> None:
        self.output = Path(output).resolve()
        self._force = force
        self._why_keep = why_keep
        self._bring_back()
        self._is_replaced()
        self.path = self.output.with_name(f"{self.output.name}.{secrets.token_hex(4)}{names.PARTIAL_SUFFIX}")

    def __enter__(self) -> Self:
        """Remove what dead runs left, and make the partial folder."""
        with output_errors(self.output):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.output.parent)
            self.path.mkdir()
        try:
            with output_errors(self.output):
                Owner.here().write(self.path / OWNER_FILE)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the partial folder, unless it was published."""
        self._discard()

    def publish(self) -> Path:
        """Flush every file to the disk, rename the folder to its final name, and return that.

        Raises
        ------
        OutputExistsError
            Something appeared under the final name meanwhile.
        OutputError
            The disk is full or not writable.
        """
        replace = self._is_replaced()
        with output_errors(self.output):
            _flush(self.path)
            aside = sibling_of_ours(self.output, names.REPLACED_SUFFIX)
            if replace:
                self.output.rename(aside)
            try:
                self.path.rename(self.output)
            except BaseException:  # Ctrl-C too: the old folder must not stay aside
                if replace and not self.output.exists():
                    aside.rename(self.output)
                raise
            (self.output / OWNER_FILE).unlink()
            _flush_folder(self.output.parent)
        shutil.rmtree(aside, ignore_errors=True)
        return self.output

    def _bring_back(self) -> None:
        """Undo, or finish, a replacement that was killed in the middle."""
        with output_errors(self.output):
            if not self.output.parent.is_dir():
                return
            for aside in siblings_of_the_dead(self.output, names.REPLACED_SUFFIX):
                if self.output.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.rename(self.output)

    def _discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _is_replaced(self) -> bool:
        """Return whether there is something to replace; OutputExistsError if that is not allowed."""
        output = self.output
        with output_errors(output):
            if not output.exists():
                return False
            if not output.is_dir():
                msg = f"expected a folder as output, found the file {output}; choose another output"
                raise OutputExistsError(msg)
            if not self._force:
                msg = f"expected no {output} yet, found one; choose another output or force its replacement (--force)"
                raise OutputExistsError(msg)
            reason = self._why_keep(output)
        if reason:
            msg = f"expected an earlier run in {output} to replace, found {reason}; choose another output"
            raise OutputExistsError(msg)
        return True


def remove_leftovers(parent: Path) -> None:
    """Remove partial folders in ``parent`` whose process ran on this machine and is dead."""
    for folder in parent.glob(f"*{names.PARTIAL_SUFFIX}"):
        if folder.is_symlink():
            continue
        owner = Owner.read(folder / OWNER_FILE)  # None: not one of ours, or still being made
        if owner is not None and owner.is_gone:
            shutil.rmtree(folder, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Have the disk hold every file of ``folder`` before its name says that it is whole."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("r+b") as stream:
                os.fsync(stream.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # folders cannot be opened there; the rename is journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
