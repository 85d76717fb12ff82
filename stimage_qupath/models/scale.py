"""Whether a slide is fine enough for an encoder."""

from __future__ import annotations

from stimage_qupath.errors import CalibrationError
from stimage_qupath.models.encoders import EncoderCard

MOST_UPSAMPLED = 1.5
"""How many times coarser than an encoder's pixels a slide's may be: beyond, interpolation invents what is not there."""
NOTED_UPSAMPLING = 1.05
"""From where on a slide coarser than the encoder's pixels is worth a note."""


def scale_notes(card: EncoderCard, mpp: float, *, what: str) -> tuple[str, ...]:
    """Return what the user should know of reading a slide at the pixel size of an encoder.

    Parameters
    ----------
    card
        Of the encoder.
    mpp
        um per level-0 pixel of the slide.
    what
        Name of the slide, for the message.

    Raises
    ------
    CalibrationError
        The slide's pixels are more than ``MOST_UPSAMPLED`` times as wide as the encoder's.
    """
    ratio = mpp / card.mpp
    if ratio > MOST_UPSAMPLED:
        msg = (
            f"expected {what} at {card.mpp * MOST_UPSAMPLED:g} um per pixel or finer for the encoder {card.name}, "
            f"which reads {card.mpp:g} um, found {mpp:g} um; take another encoder, or a finer scan"
        )
        raise CalibrationError(msg)
    if ratio > NOTED_UPSAMPLING:
        return (
            f"{what} has pixels of {mpp:g} um, enlarged {ratio:.2f} times for {card.name}, which reads {card.mpp:g} um",
        )
    return ()
