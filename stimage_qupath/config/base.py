"""Settings that refuse nonsense at birth, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from stimage_qupath.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Base of all settings: round trip through JSON, unknown keys refused."""

    def __post_init__(self) -> None:
        """Check the values; subclasses add their own rules in ``_check``."""
        for field in dataclasses.fields(self):
            _check_choice(field.name, getattr(self, field.name), typing.get_type_hints(type(self))[field.name])
        self._check()

    def _check(self) -> None:
        """Raise :class:`UsageError` where values contradict each other."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; paths as text with forward slashes."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def to_json(self) -> str:
        """Return the settings as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain values, for example from TOML or JSON.

        Raises
        ------
        UsageError
            A key is unknown or missing, or a value is not allowed.
        """
        hints = typing.get_type_hints(cls)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"expected settings out of {', '.join(sorted(known))}, found {', '.join(unknown)}"
            raise UsageError(msg)
        try:
            return cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})
        except TypeError as error:
            msg = f"settings are incomplete: {error}"
            raise UsageError(msg) from error

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from a JSON object; errors as in :meth:`from_dict`."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"expected settings as a JSON object, found text that is not JSON: {error}"
            raise UsageError(msg) from error
        if not isinstance(values, dict):
            msg = f"expected settings as a JSON object, found {type(values).__name__}"
            raise UsageError(msg)
        return cls.from_dict(values)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed."""
    if value not in allowed:
        msg = f"expected {name} out of {', '.join(allowed)}, found '{value}'"
        raise UsageError(msg)


def at_least(name: str, value: int, minimum: int) -> None:
    """Refuse a value under its minimum."""
    if value < minimum:
        msg = f"expected {name} of at least {minimum}, found {value}"
        raise UsageError(msg)


def _check_choice(name: str, value: object, hint: object) -> None:
    """Hold literal types to their words; type checkers do the rest."""
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        one_of(name, str(value), tuple(str(word) for word in typing.get_args(hint)))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return list(value) if isinstance(value, tuple) else value


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Turn a JSON value into what the field holds: paths from text, tuples from lists."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is Path and isinstance(value, str) and "\x00" not in value:
        return Path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    base = typing.get_origin(hint) or hint
    if isinstance(base, type) and (not isinstance(value, base) or (base is int and isinstance(value, bool))):
        msg = f"expected {name} of type {base.__name__}, found {value!r}"
        raise UsageError(msg)
    return value
