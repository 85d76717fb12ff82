"""Gradients of every output in one backward call, in the shape that captum's loops pass through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def all_gradients(
    forward_fn: Callable[[Tensor], Tensor], inputs: Any, target_ind: Any = None, additional_forward_args: Any = None
) -> tuple[Tensor]:
    """Return the gradients of all outputs, (picture, output x 3, height, width); a ``gradient_func`` of captum.

    The forward pass and one batched backward call serve genes and members alike.

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
        each = torch.eye(len(values), dtype=values.dtype, device=values.device)
        (found,) = torch.autograd.grad(values, pictures, grad_outputs=each, is_grads_batched=True)
    return (found.transpose(0, 1).flatten(1, 2),)


def by_output(stacked: Tensor) -> Tensor:
    """Return (picture, output, 3, height, width) of stacked gradients."""
    unstacked: Tensor = stacked.unflatten(1, (-1, 3))
    return unstacked
