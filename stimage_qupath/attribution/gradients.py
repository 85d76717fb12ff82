"""Gradients of every output from one forward pass, in the shape that captum's loops pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def all_gradients(
    forward_fn: Callable[[Tensor], Tensor], inputs: Any, target_ind: Any = None, additional_forward_args: Any = None
) -> tuple[Tensor]:
    """Return the gradients of all outputs, (picture, output x 3, height, width); a ``gradient_func`` of captum.

    The forward pass serves all outputs; each is back-propagated in turn, so that memory does not grow with them.

    Parameters
    ----------
    forward_fn
        (picture, 3, height, width) to (picture, output).
    inputs
        One tensor of pictures, as captum passes it: in a tuple.
    target_ind, additional_forward_args
        Not used; part of captum's call.
    """
    (pictures,) = inputs
    with torch.enable_grad():
        pictures = pictures.detach().requires_grad_()
        values = forward_fn(pictures).sum(dim=0)  # pictures do not look at each other
        last = len(values) - 1
        found = [torch.autograd.grad(one, pictures, retain_graph=k < last)[0] for k, one in enumerate(values)]
    return (torch.cat(found, dim=1),)


def by_output(stacked: Tensor) -> Tensor:
    """Return (picture, output, 3, height, width) of stacked gradients."""
    unstacked: Tensor = stacked.unflatten(1, (-1, 3))
    return unstacked
