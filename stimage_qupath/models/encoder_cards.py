"""The encoders that are known by name: the facts of each, read from ``encoder_cards.toml``, and where they stand."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, get_args

Family = Literal["cnn", "vit", "conch", "conch-1.5", "ctranspath"]
"""Kind of network, which says how it is built and what the keys of its checkpoint may look like."""
Pooling = Literal["network", "class", "class+mean"]
"""``network``: its own output; ``class``: the class token; ``class+mean``: that beside the mean of the patch tokens."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the hub calls the weights, the safe one first."""
HUB = "https://huggingface.co/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredEncoder:
    """What is known of one published encoder.

    Attributes
    ----------
    name, title
        How it is asked for, and how its authors write it.
    hub
        Repository on the Hugging Face hub; None where there is none.
    revision
        Commit of that repository; None takes what ``main`` is on the day, and says so.
    page
        Where to read about it and to ask for access.
    files
        Names that its weights may have, in order of preference.
    family
        Kind of network.
    architecture
        timm's name for it.
    network
        Sizes that differ from timm's for that name.
    pooling
        What of its output is the feature.
    tile_px, mpp
        Tile it reads, pixels a side, and their size, um.
    mean, std
        Normalisation of RGB in 0-1.
    width
        Features a tile.
    licence, gated
        Licence of the weights, and whether the hub wants an accepted licence and a token.
    sources
        Where each group of facts was read.
    doubtful
        Facts that could not be checked there, each with what is doubtful; empty: all were.
    """

    name: str
    title: str
    page: str
    family: Family
    architecture: str
    pooling: Pooling
    tile_px: int
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    width: int
    licence: str
    gated: bool
    sources: Mapping[str, str]
    hub: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = WEIGHT_FILES
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    doubtful: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse families, poolings and sizes that do not exist."""
        sizes = self.tile_px >= 1 and self.width >= 1 and 0.05 <= self.mpp <= 5
        known = self.family in get_args(Family) and self.pooling in get_args(Pooling)
        if not sizes or not known or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            msg = f"expected the facts of an encoder in its units, found {self}"
            raise ValueError(msg)

    @property
    def verified(self) -> bool:
        """Whether every fact was found at its source."""
        return not self.doubtful

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}
        return {
            **plain,
            "network": dict(self.network),
            "sources": dict(self.sources),
            "tile_um": self.tile_px * self.mpp,
            "verified": self.verified,
        }


@cache
def registered_encoders() -> Mapping[str, RegisteredEncoder]:
    """Return every encoder known by name, in the order of the file."""
    text = (resources.files("stimage_qupath.models") / "encoder_cards.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: _entry(name, facts) for name, facts in tomllib.loads(text).items()})


def _entry(name: str, facts: dict[str, Any]) -> RegisteredEncoder:
    hub = facts.get("hub")
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    return RegisteredEncoder(**({"name": name, "page": f"{HUB}{hub}"} | facts | lists))
