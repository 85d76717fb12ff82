"""What a person may choose as encoder, for a list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stimage_qupath.models.encoder_cards import registered_encoders
from stimage_qupath.models.encoders import encoder_names, load_encoder
from stimage_qupath.models.weights import on_this_machine


@dataclass(frozen=True, slots=True)
class KnownEncoder:
    """One line of the list.

    Attributes
    ----------
    name, licence, gated, mpp, tile_px, width
        As on the encoder's card.
    here
        Whether it runs without a download: it ships with the package, or its weights are on this machine.
    facts
        Everything that is known of it.
    """

    name: str
    licence: str
    gated: bool
    mpp: float
    tile_px: int
    width: int
    here: bool
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts and ``here`` as JSON has them."""
        return {**self.facts, "here": self.here}


def known_encoders() -> list[KnownEncoder]:
    """Return every encoder that is known by name; nothing is fetched."""
    registry = registered_encoders()
    shipped = [load_encoder(name).card for name in encoder_names() if name not in registry]
    rows = [_row(card, here=True, facts=card.to_dict()) for card in shipped]
    return rows + [_row(entry, here=on_this_machine(entry), facts=entry.to_dict()) for entry in registry.values()]


def _row(card: Any, *, here: bool, facts: dict[str, Any]) -> KnownEncoder:
    """Make a line of a card, whose fields are called the same wherever it comes from."""
    return KnownEncoder(card.name, card.licence, card.gated, card.mpp, card.tile_px, card.width, here, facts)
