"""Java's object serialization stream, read into plain Python values without Java.

The grammar is that of the *Java Object Serialization Specification*, chapter 6, protocol version 2. Nothing is
executed: a class is only a name and its fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

MAGIC: Final = b"\xac\xed\x00\x05"
FIRST_HANDLE: Final = 0x7E0000
PRIMITIVES: Final = {"B": "b", "C": "H", "D": "d", "F": "f", "I": "i", "J": "q", "S": "h", "Z": "?"}
ARRAY_TYPES: Final = {"B": "i1", "C": ">u2", "D": ">f8", "F": ">f4", "I": ">i4", "J": ">i8", "S": ">i2", "Z": "?"}
HAS_WRITE_METHOD, SERIALIZABLE, EXTERNALIZABLE = 0x01, 0x02, 0x04
NULL, REFERENCE, CLASS_DESC, OBJECT, STRING, ARRAY, CLASS = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76
BLOCK, END_BLOCK, LONG_BLOCK, LONG_STRING, PROXY_DESC, ENUM = 0x77, 0x78, 0x7A, 0x7C, 0x7D, 0x7E


class JavaStreamError(ValueError):
    """The bytes are no serialization stream, or one that is cut short."""


@dataclass(slots=True)
class JavaClass:
    """A class as the stream describes it.

    Attributes
    ----------
    name
        Full name, such as ``qupath.lib.objects.PathRootObject``.
    flags
        How its objects are stored.
    layout
        Primitive fields in the order of the stream.
    primitives, references
        Names of the primitive fields and of those that hold objects.
    parent
        Its super class, or None.
    """

    name: str
    flags: int = 0
    layout: struct.Struct = field(default_factory=lambda: struct.Struct(""))
    primitives: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    parent: JavaClass | None = None

    @property
    def lineage(self) -> list[JavaClass]:
        """The class and its super classes, the topmost first."""
        above = self.parent.lineage if self.parent else []
        return [*above, self]


@dataclass(slots=True)
class JavaObject:
    """An object.

    Attributes
    ----------
    java_class
        Its class.
    fields
        Fields that Java stored by itself.
    contents
        What the class wrote by its own method: objects, and ``bytes`` where it wrote primitives.
    """

    java_class: JavaClass
    fields: dict[str, Any] = field(default_factory=dict)
    contents: list[Any] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """Full name of the class."""
        return self.java_class.name


@dataclass(frozen=True, slots=True)
class JavaEnum:
    """A constant of an enumeration."""

    class_name: str
    name: str


class JavaStream:
    """Reads the top-level contents of a stream in order; a context for one file.

    Parameters
    ----------
    data
        The whole stream.

    Raises
    ------
    JavaStreamError
        It does not begin as a stream; reading raises it where the bytes do not follow the grammar.
    """

    def __init__(self, data: bytes) -> None:
        if not data.startswith(MAGIC):
            msg = f"expected a Java serialization stream, found {data[:4]!r} at its beginning"
            raise JavaStreamError(msg)
        self._data = data
        self._at = len(MAGIC)
        self._handles: list[Any] = []
        self._readers = {
            NULL: self._null,
            REFERENCE: self._reference,
            CLASS_DESC: self._class_desc,
            PROXY_DESC: self._proxy_desc,
            OBJECT: self._object,
            STRING: self._string,
            LONG_STRING: self._long_string,
            ARRAY: self._array,
            CLASS: self._class,
            ENUM: self._enum,
        }

    def __iter__(self) -> Iterator[Any]:
        """Yield each object, or ``bytes`` for each block of primitives."""
        while self._at < len(self._data):
            try:
                item = self._content()
            except (struct.error, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
                msg = f"expected Java objects, found other bytes before position {self._at}: {error!r}"
                raise JavaStreamError(msg) from error
            yield item

    def _content(self) -> Any:
        code = self._data[self._at]
        self._at += 1
        if code == BLOCK:
            return self._bytes(self._unpack(">B"))
        if code == LONG_BLOCK:
            return self._bytes(self._unpack(">i"))
        return self._readers[code]()

    def _bytes(self, n: int) -> bytes:
        start, self._at = self._at, self._at + n
        if n < 0 or self._at > len(self._data):
            msg = f"{n} bytes wanted beyond the end"
            raise JavaStreamError(msg)
        return self._data[start : self._at]

    def _unpack(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _keep(self, value: Any) -> Any:
        self._handles.append(value)
        return value

    def _null(self) -> None:
        return None

    def _reference(self) -> Any:
        return self._handles[self._unpack(">I") - FIRST_HANDLE]

    def _text(self, n: int) -> str:
        return modified_utf8(self._bytes(n))

    def _string(self) -> str:
        text: str = self._keep(self._text(self._unpack(">H")))
        return text

    def _long_string(self) -> str:
        text: str = self._keep(self._text(self._unpack(">Q")))
        return text

    def _class(self) -> Any:
        return self._keep(self._content())

    def _enum(self) -> JavaEnum:
        java_class = self._content()
        place = len(self._handles)
        self._handles.append(None)
        self._handles[place] = JavaEnum(java_class.name, self._content())
        constant: JavaEnum = self._handles[place]
        return constant

    def _proxy_desc(self) -> JavaClass:
        java_class: JavaClass = self._keep(JavaClass("proxy", SERIALIZABLE))
        for _ in range(self._unpack(">i")):
            self._text(self._unpack(">H"))
        self._annotation()
        java_class.parent = self._content()
        return java_class

    def _class_desc(self) -> JavaClass:
        java_class = JavaClass(self._text(self._unpack(">H")))
        self._at += 8  # serialVersionUID
        self._keep(java_class)
        java_class.flags = self._unpack(">B")
        primitives: list[tuple[str, str]] = []
        references: list[str] = []
        for _ in range(self._unpack(">H")):
            kind = chr(self._unpack(">B"))
            name = self._text(self._unpack(">H"))
            if kind in PRIMITIVES:
                primitives.append((PRIMITIVES[kind], name))
            else:
                self._content()  # the type's name
                references.append(name)
        java_class.layout = struct.Struct(">" + "".join(code for code, _ in primitives))
        java_class.primitives = tuple(name for _, name in primitives)
        java_class.references = tuple(references)
        self._annotation()
        java_class.parent = self._content()
        return java_class

    def _object(self) -> JavaObject:
        java_class = self._content()
        found: JavaObject = self._keep(JavaObject(java_class))
        if java_class.flags & EXTERNALIZABLE:
            found.contents = self._annotation()
            return found
        for part in java_class.lineage:
            if part.flags & SERIALIZABLE:
                self._fields(part, found.fields)
                if part.flags & HAS_WRITE_METHOD:
                    found.contents += self._annotation()
        return found

    def _fields(self, java_class: JavaClass, fields: dict[str, Any]) -> None:
        layout = java_class.layout
        fields.update(zip(java_class.primitives, layout.unpack_from(self._data, self._at), strict=True))
        self._at += layout.size
        for name in java_class.references:
            fields[name] = self._content()

    def _annotation(self) -> list[Any]:
        """Return contents up to the end mark, neighbouring blocks of primitives joined."""
        contents: list[Any] = []
        while self._data[self._at] != END_BLOCK:
            item = self._content()
            if isinstance(item, bytes) and contents and isinstance(contents[-1], bytes):
                contents[-1] += item
            else:
                contents.append(item)
        self._at += 1
        return contents

    def _array(self) -> Any:
        java_class = self._content()
        place = len(self._handles)
        self._handles.append(None)
        n, kind = self._unpack(">i"), java_class.name[1]
        if kind in ARRAY_TYPES:
            dtype = np.dtype(ARRAY_TYPES[kind])
            values: Any = np.frombuffer(self._bytes(n * dtype.itemsize), dtype=dtype)
        else:
            values = [self._content() for _ in range(n)]
        self._handles[place] = values
        return values


def modified_utf8(data: bytes) -> str:
    """Return text that Java wrote: NUL as two bytes, characters beyond 16 bits as two surrogates of three bytes each.

    Raises
    ------
    UnicodeDecodeError
        It is not such text (a ValueError).
    """
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
