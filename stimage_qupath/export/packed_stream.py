"""A gzip stream that packs in a thread of its own, beside whoever writes into it."""

from __future__ import annotations

import gzip
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from stimage_qupath.export.output_file import OutputFile

GZIP_LEVEL: Final = 3
"""Measured on 100,000 nuclei x 40 measurements: level 4 takes a tenth longer for 4 % less, level 1 makes 8 % more."""
_PIECE_BYTES: Final = 2**18
_WAITING: Final = 8
"""Pieces that wait for the thread; a writer that is ahead of it waits too, so that memory stays bounded."""


class PackedStream:
    """Takes bytes and writes them packed, in the order they come; equal input gives equal bytes.

    Packing takes longer than printing the text and leaves Python to other threads meanwhile.

    Parameters
    ----------
    file
        Takes the packed bytes from the thread; it is not closed here. Neither time nor name go into its header.
    """

    def __init__(self, file: BinaryIO | OutputFile) -> None:
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packing")
        self._waiting: deque[Future[Any]] = deque()
        self._small: list[bytes] = []
        self._small_bytes = 0

    def write(self, data: bytes, /) -> int:
        """Take ``data``; raises what an earlier piece met."""
        self._small.append(data)
        self._small_bytes += len(data)
        if self._small_bytes >= _PIECE_BYTES:
            self._hand_over()
        return len(data)

    def _hand_over(self) -> None:
        """Give the thread what was gathered."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        piece = self._small[0] if len(self._small) == 1 else b"".join(self._small)
        self._small, self._small_bytes = [], 0
        self._waiting.append(self._thread.submit(self._gzip.write, piece))

    def close(self) -> None:
        """Pack what waits and end the stream; raises what a piece met, and does nothing the second time."""
        try:
            if self._small:
                self._hand_over()
            while self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown()
            self._gzip.close()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
