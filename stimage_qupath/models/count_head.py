"""A trainable head of counts on an encoder's features, for training end to end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stimage_qupath.models.count_distribution import CountDistribution
from stimage_qupath.models.likelihoods import PARAMETERS, check_likelihood, distribution


class CountHead(nn.Module):
    """Features of a tile to the distribution of its counts; depth enters as an offset.

    The location is linear in the features. Each further parameter of the likelihood is one value a gene or, with
    ``spot_wise``, linear in the features too: gene-wise ones need fewer spots and are the default.

    Parameters
    ----------
    features, genes
        Width of the encoder and of the panel.
    likelihood
        ``nb``, ``poisson``, ``zinb`` or ``gaussian-log``.
    spot_wise
        Whether ``total_count`` (and the like) differs between spots of a gene.
    start
        (gene,) location before training, usually the log of the mean training rate at reference depth; weights start
        at 0, so that training starts from the gene means.
    """

    def __init__(
        self, features: int, genes: int, *, likelihood: str = "nb", spot_wise: bool = False, start: Tensor | None = None
    ) -> None:
        super().__init__()
        self.likelihood = check_likelihood(likelihood)
        self.location = _zero_linear(features, genes)
        if start is not None:
            with torch.no_grad():
                self.location.bias.copy_(start)
        names = PARAMETERS[likelihood]
        self.shape_weights = nn.ParameterDict({k: torch.zeros(genes, features) for k in names} if spot_wise else {})
        self.shapes = nn.ParameterDict({name: torch.full((genes,), _START[name]) for name in names})

    def forward(self, features: Tensor, log_depth: Tensor) -> CountDistribution:
        """Return the distribution of counts at the depth of each spot.

        Parameters
        ----------
        features
            (spot, feature).
        log_depth
            (spot,) log of total over reference total; zeros predict at reference depth.
        """
        parameters = {name: value.expand(len(features), -1) for name, value in self.shapes.items()}
        for name, weight in self.shape_weights.items():
            parameters[name] = parameters[name] + features @ weight.T
        return distribution(self.likelihood, self.location(features), parameters).at_depth(log_depth[:, None])


_START = {"log_total_count": 1.6, "zero_logit": -3.0, "log_sd": -0.5}
"""Where parameters start: r of 5, 5 % of empty places, an SD of 0.6 on the log scale."""


def _zero_linear(features: int, genes: int) -> nn.Linear:
    layer = nn.Linear(features, genes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
