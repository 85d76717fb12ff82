"""The gzip stream that packs beside its writer."""

from __future__ import annotations

import gzip
import io
import threading

import pytest

from stimage_qupath.export.packed_stream import PackedStream


class FullDisk(io.RawIOBase):
    """A file with room for the first few bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        self.room -= memoryview(data).nbytes  # type: ignore[arg-type]
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return memoryview(data).nbytes  # type: ignore[arg-type]


def packed(data: bytes, piece: int) -> bytes:
    file = io.BytesIO()
    with PackedStream(file) as stream:
        for start in range(0, len(data), piece):
            assert stream.write(data[start : start + piece]) == len(data[start : start + piece])
    return file.getvalue()


def test_holds_what_was_written_whatever_the_pieces() -> None:
    data = b"".join(b"%d nuclei, " % i for i in range(200_000))

    whole = packed(data, len(data))

    assert gzip.decompress(whole) == data
    assert packed(data, 1000) == packed(data, 77_777) == whole


def test_says_neither_time_nor_name() -> None:
    header = packed(b"x", 1)[:10]

    assert header[3] == 0  # no name, no comment
    assert header[4:8] == b"\0\0\0\0"


def test_a_full_disk_is_told_to_the_writer() -> None:
    stream = PackedStream(FullDisk(100))  # type: ignore[arg-type]

    def fill() -> None:
        for i in range(100):
            stream.write(bytes(str(i), "ascii") * 300_000)

    with pytest.raises(OSError, match="No space left"):
        fill()
    with pytest.raises(OSError, match="No space left"):
        stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("packing")]


def test_a_writer_that_is_ahead_waits() -> None:
    going_on, taken = threading.Event(), []

    class Slow(io.BytesIO):
        def write(self, data: object, /) -> int:
            going_on.wait(10)
            return super().write(data)  # type: ignore[arg-type]

    going_on.set()  # for the header
    stream = PackedStream(Slow())
    going_on.clear()

    def write() -> None:
        taken.extend(stream.write(bytes(2**20)) for _ in range(100))

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    assert len(taken) < 20
    going_on.set()
    writer.join(20)
    stream.close()
    assert len(taken) == 100


def test_closing_twice_does_nothing() -> None:
    stream = PackedStream(io.BytesIO())
    stream.write(b"x")
    stream.close()

    stream.close()
