"""Ask QuPath's process: starts the bridge, sends requests, turns answers into values and errors. No Java in here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from stimage_qupath import errors
from stimage_qupath.errors import MissingPartError, StimageError

MODULE: Final = "stimage_qupath.qupath.bridge"
TAIL_BYTES: Final = 2_000


class BridgeClient:
    """Context manager around one bridge process, which starts with the first request.

    Parameters
    ----------
    qupath
        Folder of a QuPath; None leaves the choice to paquo's settings and search.
    """

    def __init__(self, *, qupath: Path | None = None) -> None:
        self._qupath = qupath
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process; at once where something went wrong, Ctrl-C included."""
        if kind is None:
            self.close()
        else:
            self.kill()

    def ask(self, op: str, *, on_progress: Callable[[int, int], None] | None = None, **arguments: Any) -> Any:
        """Return the result of one request.

        Raises
        ------
        StimageError
            The bridge's error, of its own kind; a bridge that died is a StimageError with the end of its log.
        """
        process = self._started()
        if process.stdin is None or process.stdout is None:
            raise self._died()
        try:
            process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            process.stdin.flush()
        except OSError as error:
            raise self._died() from error
        for line in process.stdout:
            answer = json.loads(line)
            if answer["event"] == "progress":
                if on_progress is not None:
                    on_progress(answer["done"], answer["total"])
            elif answer["event"] == "done":
                return answer["result"]
            else:
                raise _error(answer["error"])
        raise self._died()

    def has_qupath(self) -> bool:
        """Return whether there is a QuPath that paquo finds; Java is not started."""
        try:
            self.ask("find")
        except MissingPartError:
            return False
        return True

    def close(self) -> None:
        """End the process; an unfinished request is finished first."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(BrokenPipeError):  # it is gone, and with it who reads
                process.communicate()
        if self._log is not None:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """End the process whatever it does; what it had begun to write has to be looked after."""
        if self._process is not None:
            self._process.kill()
        self.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            environment = dict(os.environ)
            if self._qupath is not None:
                environment["PAQUO_QUPATH_DIR"] = str(self._qupath)
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-X", "utf8", "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        return self._process

    def _died(self) -> StimageError:
        """Return the error of a bridge that went away, with what it printed last."""
        code = None if self._process is None else self._process.wait()
        tail = ""
        if self._log is not None:
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - TAIL_BYTES))
            tail = self._log.read().decode("utf-8", "replace").strip()
        self.close()
        return StimageError(
            f"QuPath's process ended with code {code} before it answered: {tail or 'it printed nothing'}"
        )


def _error(fields: Mapping[str, Any]) -> StimageError:
    """Return the bridge's error as the class it was there."""
    kind = getattr(errors, fields["type"], StimageError)
    return kind(fields["message"]) if issubclass(kind, StimageError) else StimageError(fields["message"])
