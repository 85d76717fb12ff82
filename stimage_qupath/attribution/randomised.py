"""The same model with weights that mean nothing: an explanation of it must be another one.

A method that gives the same picture for a network and for its weights shuffled shows the image, not the model (Adebayo
et al. 2018, https://arxiv.org/abs/1810.03292). Shuffling keeps the distribution of the weights, so that outputs stay of
their usual size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.attribution.targets import Outputs
from stimage_qupath.models.context import ContextEncoder
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.tile_encoder import TileEncoder


def random_heads(outputs: Outputs, *, seed: int) -> Outputs:
    """Return outputs whose genes rest on features drawn by lot: the features of each factor have changed places."""
    heads = outputs.ensemble.heads
    rng = np.random.default_rng(seed)
    projection = rng.permuted(heads.projection, axis=1)
    return replace(outputs, ensemble=replace(outputs.ensemble, heads=replace(heads, projection=projection)))


def random_encoder(encoder: Encoder, *, seed: int) -> Encoder | None:
    """Return the encoder with the entries of each of its weights shuffled; None where it has none to shuffle."""
    if isinstance(encoder, ContextEncoder):
        network = encoder.trunk
    elif isinstance(encoder, TileEncoder):
        network = encoder.network
    else:
        return None
    rng = np.random.default_rng(seed)
    weights = {name: _shuffled(weight, rng) for name, weight in network.state_dict().items()}
    return encoder.with_weights(weights, images_seen=frozenset())


def standardised_by(outputs: Outputs, features: NDArray[np.float32]) -> Outputs:
    """Return outputs that take features, (place, feature), for usual: a shuffled encoder's are of another size."""
    heads = outputs.ensemble.heads
    sd = features.std(axis=0)
    usual = replace(
        heads,
        feature_mean=features.mean(axis=0).astype(np.float32),
        feature_sd=np.where(sd > 0, sd, 1).astype(np.float32),
    )
    return replace(outputs, ensemble=replace(outputs.ensemble, heads=usual))


def _shuffled(weight: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    if not weight.is_floating_point():  # counters of batches seen
        return weight
    order = torch.from_numpy(rng.permutation(weight.numel()))
    return weight.detach().cpu().flatten()[order].view(weight.shape)
