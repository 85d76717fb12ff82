"""Methods by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.scene import Contributions, Scene
from stimage_qupath.errors import UsageError


class Attribute(Protocol):
    """The verb of every method."""

    def __call__(self, scene: Scene, filled: NDArray[np.uint8], question: Question) -> Contributions:
        """Return the contributions of a scene's features; see :func:`stimage_qupath.attribution.ablation.attribute`."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """What can be said of a method before it runs.

    Attributes
    ----------
    name
        As ``--method`` takes it; the module of that name holds the method.
    gradients
        Whether it needs an encoder that passes gradients.
    complete
        Whether contributions promise to add up to the difference of the outputs.
    signed
        Whether the sign says up or down.
    fills
        Whether what stands where something is removed matters to it.
    """

    name: str
    gradients: bool
    complete: bool
    signed: bool = True
    fills: bool = True

    def load(self) -> Attribute:
        """Return the function; captum is loaded only for methods that use it."""
        function: Attribute = importlib.import_module(f"stimage_qupath.attribution.{self.name}").attribute
        return function


METHODS: Final = {
    method.name: method
    for method in (
        Method("ablation", gradients=False, complete=False),
        Method("lime", gradients=False, complete=False),
        Method("kernel_shap", gradients=False, complete=True),
        Method("saliency", gradients=True, complete=False, signed=False, fills=False),
        Method("input_x_gradient", gradients=True, complete=False),
        Method("integrated_gradients", gradients=True, complete=True),
        Method("gradient_shap", gradients=True, complete=False),
        Method("guided_grad_cam", gradients=True, complete=False, fills=False),
    )
}
DEFAULT_METHOD: Final = "ablation"
DEFAULT_FILL: Final = "white"
"""Chosen on three training sections of her2st, among methods at least ten times as fast as LIME, by how much more
painting over the first nuclei does than painting over others like them, with a fill that is none of these."""


def choose_method(name: str) -> Method:
    """Return the method called ``name``; UsageError names those there are."""
    if name not in METHODS:
        msg = f"expected a method out of {', '.join(METHODS)}, found '{name}'"
        raise UsageError(msg)
    return METHODS[name]
