"""Training of a StarDist network on views of annotated images (Schmidt et al. 2018, doi 10.1007/978-3-030-00934-2_30).

The loss is the original's: binary cross-entropy of the probability, and the absolute error of the distances, weighted
by the probability, with a small pull to 0 in the background. The kept weights are a running average over the steps
(Polyak & Juditsky 1992, doi 10.1137/0330046), of the epoch with the highest AP on the validation images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from stimage_qupath.nuclei.stardist_network import StarDistConfig, StarDistNetwork
from stimage_qupath.results import CancelCheck, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.training.nuclei_augmentation import AugmentationSettings
from stimage_qupath.training.nuclei_dataset import NucleiImage
from stimage_qupath.training.nuclei_sampling import NucleiBatch, NucleiSampler
from stimage_qupath.training.nuclei_score import average_precision, best_thresholds, outward_offset

STAGE: Final = "train"
_DIST_WEIGHT: Final = 0.2  # as the original
_BACKGROUND_PULL: Final = 1e-4  # as the original
_WARM_UP: Final = 0.05  # share of the steps in which the learning rate rises
_AVERAGED_STEPS: Final = 300  # the running average looks back over about so many
_MOST_GRADIENT: Final = 5.0


@dataclass(frozen=True, slots=True)
class NucleiFitSettings:
    """How a network is trained.

    Attributes
    ----------
    epochs
        Number of times that ``steps`` batches are drawn; after each the validation images are scored.
    steps
        Batches an epoch; None: as many as cover the images once, at least 16.
    batch_size
        Views a batch.
    patch_px
        Side of a view.
    learning_rate
        Highest of AdamW, after a rise and before a fall along a cosine.
    weight_decay
        Of AdamW.
    seed
        Of the first weights and all views.
    threads
        That prepare views.
    bfloat16
        Run the convolutions in bfloat16: faster on recent processors, not the same to the last digit.
    augmentation
        How far views differ from the images.
    """

    epochs: int = 60
    steps: int | None = None
    batch_size: int = 8
    patch_px: int = 160
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    seed: int = 0
    threads: int = 1
    bfloat16: bool = False
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        """Refuse training of nothing."""
        least = min(self.epochs, self.batch_size, self.patch_px, self.threads, 1 if self.steps is None else self.steps)
        if least < 1 or not 0 < self.learning_rate < 1 or not 0 <= self.weight_decay < 1:
            msg = f"expected positive numbers for training, found {self}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class NucleiFit:
    """What training gave.

    Attributes
    ----------
    network
        With the kept weights, ready to predict.
    thresholds
        ``prob`` and ``nms`` of highest AP on the validation images.
    validation_ap
        That AP at IoU 0.5, mean over images.
    offset_px
        Added to all distances at the end, so that nuclei have the right area on the validation images.
    losses
        Mean training loss of each epoch.
    scores
        Validation AP at the usual thresholds after each epoch.
    kept_epoch
        From 0; -1 where nothing was better than the weights that training began with.
    """

    network: StarDistNetwork
    thresholds: dict[str, float]
    validation_ap: float
    offset_px: float
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    kept_epoch: int


def new_network(config: StarDistConfig, *, seed: int) -> StarDistNetwork:
    """Return a network with random weights (He et al. 2015) and a prior of few nuclei."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StarDistNetwork(config)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(network.prob.weight, std=0.01)
        nn.init.constant_(network.prob.bias, -1.5)  # type: ignore[arg-type]
        nn.init.normal_(network.dist.weight, std=0.01)
        nn.init.constant_(network.dist.bias, 5.0)  # type: ignore[arg-type]
    return network


def stardist_loss(network: StarDistNetwork, batch: NucleiBatch) -> Tensor:
    """Return the loss of a batch; pixels of unknown label have no part in it."""
    prob_logit, dist = network.logits(batch.images)
    known = batch.known.float()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(prob_logit.float(), batch.prob, reduction="none")
    error = (dist.float() - batch.dist).abs().mean(dim=-1)
    weight = batch.prob * known
    background = known * (batch.prob == 0)
    pull = _BACKGROUND_PULL * (dist.float().abs().mean(dim=-1) * background).mean()
    prob_loss = (cross_entropy * known).sum() / known.sum().clamp(min=1)
    return prob_loss + _DIST_WEIGHT * ((error * weight).sum() / weight.sum().clamp(min=1) + pull)


def fit_nuclei(
    network: StarDistNetwork,
    training: Sequence[NucleiImage],
    validation: Sequence[NucleiImage],
    *,
    settings: NucleiFitSettings,
    device: torch.device,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> NucleiFit:
    """Train a network.

    Parameters
    ----------
    network
        To begin with; it is not changed.
    training, validation
        Images to learn from, and to choose epoch and thresholds by.
    settings
        How.
    device
        Where.
    on_progress, cancelled
        Progress and cancellation, looked at after every batch.

    Raises
    ------
    CancelledError
        The user stopped it.
    """
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last).requires_grad_(True).train()  # type: ignore[call-overload]
    sampler = NucleiSampler(training, network.config, settings.patch_px, settings.augmentation, settings.seed)
    steps = settings.steps or max(16, round(_area(training) / (settings.batch_size * settings.patch_px**2)))
    total = settings.epochs * steps
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    averaged = _Average(network)
    losses, scores, kept, kept_epoch = [], [], averaged.network.state_dict(), -1
    running, best = 0.0, -1.0
    for step, batch in enumerate(sampler.batches(total, size=settings.batch_size, threads=settings.threads)):
        stop_if(cancelled)
        running += _step(network, batch, optimizer, device=device, bfloat16=settings.bfloat16)
        schedule.step()
        averaged.update(network)
        epoch, done = divmod(step + 1, steps)
        if done == 0:
            losses.append(running / steps)
            scores.append(average_precision(averaged.network, validation, device=device))
            running = 0.0
            if scores[-1] > best:
                best, kept_epoch, kept = scores[-1], epoch - 1, copy.deepcopy(averaged.network.state_dict())
        score = f", validation AP {scores[-1]:.3f}" if scores else ""
        loss = f"loss {losses[-1]:.3f}" if losses else ""
        on_progress(STAGE, step + 1, total, loss + score)
    averaged.network.load_state_dict(kept)
    thresholds, _ = best_thresholds(averaged.network, validation, device=device)
    offset = outward_offset(averaged.network, validation, thresholds, device=device)
    kept["dist.bias"] = kept["dist.bias"] + offset
    averaged.network.load_state_dict(kept)
    thresholds, validation_ap = best_thresholds(averaged.network, validation, device=device)
    return NucleiFit(averaged.network, thresholds, validation_ap, offset, tuple(losses), tuple(scores), kept_epoch)


def _step(
    network: StarDistNetwork,
    batch: NucleiBatch,
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    bfloat16: bool,
) -> float:
    """Take one step and return the loss before it."""
    images = batch.images.to(device, memory_format=torch.channels_last)
    there = NucleiBatch(images, batch.prob.to(device), batch.dist.to(device), batch.known.to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16):
        loss = stardist_loss(network, there)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), _MOST_GRADIENT)
    optimizer.step()
    return float(loss.detach())


class _Average:
    """Running average of the weights of a network; early steps count less."""

    def __init__(self, network: StarDistNetwork) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._steps = 0

    @torch.no_grad()
    def update(self, network: StarDistNetwork) -> None:
        """Take the weights of one more step in."""
        self._steps += 1
        share = max(1 / _AVERAGED_STEPS, 1 / (1 + self._steps / 10))
        for ours, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if ours.dtype.is_floating_point:
                ours.lerp_(theirs, share)
            else:
                ours.copy_(theirs)


def _rate(step: int, total: int) -> float:
    """Return the learning rate of a step, as a share of the highest."""
    rise = max(1, round(_WARM_UP * total))
    if step < rise:
        return (step + 1) / rise
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))) / 2


def _area(images: Sequence[NucleiImage]) -> int:
    return sum(image.labels.size for image in images)
