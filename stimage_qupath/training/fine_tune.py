"""An encoder learnt further on measured sections, end to end through a head of counts.

The head is learnt first on the encoder as it is, so that the first gradients do not tear features apart (Kumar et al.
2022, arXiv 2202.10054); then both together, layers near the pixels more slowly. After each epoch the likelihood of
sections that were kept out is asked, of other patients where there are three: neighbouring spots share their image, and
would say yes to anything. The best epoch's weights stay, the first epoch being the encoder as it was.

Each section's own rate of each gene is an offset, and its mean features are taken off, as in
:mod:`stimage_qupath.training.fit`: what differs between whole sections is stain and batch before it is biology.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stimage_qupath.errors import UsageError
from stimage_qupath.models.count_head import CountHead
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.scale import scale_notes
from stimage_qupath.models.tile_encoder import weights_sha256
from stimage_qupath.regions.stain_overview import normalised
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.slide.calibration import slide_pixel_size
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.slide.stain_normalisation import Appearance
from stimage_qupath.spots.section import Section
from stimage_qupath.training.nuclei_augmentation import AugmentationSettings
from stimage_qupath.training.spot_views import STAIN_JITTER, Frame, View, plan_frames, read_views
from stimage_qupath.training.tunable import Tunable, as_tunable, layer_rates

STAGE: Final = "fine-tune"
LEAST_PATIENTS: Final = 3
HELD_OUT_SHARE: Final = 0.2
_LEAST_SD: Final = 0.05  # of a feature, in median SDs; as for the heads
_PRIOR_COUNTS: Final = 10.0  # that hold a section's rate of a gene near the pooled one
_PROBE_STEPS: Final = 100
_PROBE_SPOTS: Final = 512
_HEAD_RATE: Final = 1e-2  # of the head alone; a tenth of it together with the encoder
_WARM_UP: Final = 0.05  # share of the steps in which rates rise
_MOST_GRADIENT: Final = 5.0


@dataclass(frozen=True, slots=True)
class FineTuneSettings:
    """How an encoder is learnt further.

    Attributes
    ----------
    epochs
        Rounds through the training images at most.
    learning_rate
        Of the encoder's last layer, at its highest; 0 leaves the encoder as it is.
    layer_decay
        Factor of the rate from each layer to the one before it.
    weight_decay
        Of AdamW.
    patience
        Epochs without a better one before training ends.
    batch_size
        Windows a step, of encoders of tiles; others take one image of many spots.
    stain
        How far the stains of views differ.
    seed, threads
        Of every random number; that read images.
    """

    epochs: int = 20
    learning_rate: float = 1e-4
    layer_decay: float = 0.8
    weight_decay: float = 0.01
    patience: int = 5
    batch_size: int = 32
    stain: AugmentationSettings = field(default=STAIN_JITTER)
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        """Refuse training of nothing."""
        least = min(self.epochs, self.patience, self.batch_size, self.threads)
        shares = (self.learning_rate, self.layer_decay, self.weight_decay)
        if least < 1 or not all(0 <= share <= 1 for share in shares):
            msg = f"expected whole numbers of at least 1 and rates between 0 and 1, found {self}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class FineTuned:
    """What fine-tuning gave.

    Attributes
    ----------
    weights
        Of the network at the best epoch, by name, on the CPU.
    training_loss
        Minus the log-likelihood of a count, mean over spots and genes, of the views of each epoch.
    validation_loss
        The same of what was kept out, before the first epoch and after each.
    best_epoch
        With the least validation loss; 0 is the encoder as it was.
    held_out_level, held_out
        ``patient`` or ``section``, and which of them were kept out.
    """

    weights: dict[str, Tensor]
    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int
    held_out_level: str
    held_out: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the weights with their names, as an encoder's card has it."""
        return weights_sha256(self.weights)

    def record(self) -> dict[str, Any]:
        """Return what the model card says."""
        return {
            "epochs": len(self.training_loss),
            "best_epoch": self.best_epoch,
            "training_loss": [round(loss, 6) for loss in self.training_loss],
            "validation_loss": [round(loss, 6) for loss in self.validation_loss],
            "held_out_level": self.held_out_level,
            "held_out": list(self.held_out),
        }


def choose_held_out(sections: Sequence[Section], *, seed: int) -> tuple[str, tuple[str, ...]]:
    """Return what early stopping looks at: a fifth of the patients, or of the sections where patients are too few.

    Raises
    ------
    UsageError
        There is one section.
    """
    patients = list(dict.fromkeys(section.patient for section in sections))
    level, units = "patient", patients
    if len(patients) < LEAST_PATIENTS:
        level, units = "section", [section.name for section in sections]
    if len(units) < 2:
        msg = "expected at least two training sections to fine-tune an encoder, found one; leave --fine-tune out"
        raise UsageError(msg)
    number = max(1, round(HELD_OUT_SHARE * len(units)))
    chosen = np.random.default_rng(seed).choice(len(units), number, replace=False)
    return level, tuple(units[i] for i in sorted(chosen))


def fine_tune(
    encoder: Encoder,
    sections: Sequence[Section],
    panel: Panel,
    *,
    settings: FineTuneSettings,
    device: torch.device,
    stain: Appearance | None = None,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> FineTuned:
    """Learn an encoder further; nothing outside ``sections`` enters, and ``encoder`` stays as it is.

    Parameters
    ----------
    encoder
        One that is a network.
    sections, panel
        Training sections and the genes to learn from.
    settings
        How.
    device
        Where; CUDA computes in bfloat16.
    stain
        Stains that every image is shown in, or None: its own.
    on_progress, cancelled
        Called with the stage ``fine-tune`` and the epochs done; cancellation is looked at after every batch.

    Raises
    ------
    UsageError
        The encoder has no gradients, or there is one section only.
    CancelledError
        The user stopped it.
    """
    tuned = as_tunable(encoder, device)
    level, held_out = choose_held_out(sections, seed=settings.seed)
    out = [(s.patient if level == "patient" else s.name) in held_out for s in sections]
    with ExitStack() as stack:
        frames, first = [], 0
        for section in sections:
            frames.append(_frames(stack, section, tuned, stain, first))
            first += len(section.positions_px)
        training = [frame for of, kept in zip(frames, out, strict=True) if not kept for frame in of]
        validation = [frame for of, kept in zip(frames, out, strict=True) if kept for frame in of]
        table = _Table.of(sections, panel, np.array(out), device)
        fit = _Fit(tuned, table, settings, device, cancelled)
        fit.begin(training, validation)
        return FineTuned(*fit.run(training, validation, on_progress), level, held_out)


def _frames(
    stack: ExitStack, section: Section, tuned: Tunable, stain: Appearance | None, first_row: int
) -> list[Frame]:
    slide = stack.enter_context(open_slide(section.image))
    what = f"the image of section {section.name}"
    mpp = slide_pixel_size(slide, section.mpp, what=what)
    scale_notes(tuned.card, mpp, what=what)  # refuses an image that is too coarse
    shown = normalised(slide, mpp, stain)
    points = section.positions_px
    return plan_frames(shown, mpp, points, tuned.card, first_row=first_row, whole=tuned.whole_windows)


@dataclass(frozen=True, slots=True)
class _Table:
    """All spots: counts and offsets (spot, gene), log depth (spot,), section (spot,), start of the head (gene,)."""

    counts: Tensor
    log_depth: Tensor
    offset: Tensor
    section: NDArray[np.intp]
    start: Tensor

    @classmethod
    def of(cls, sections: Sequence[Section], panel: Panel, out: NDArray[np.bool_], device: torch.device) -> _Table:
        """Return the table; what training depends on comes from the sections that are not ``out`` alone."""
        counts = [section.counts_of(panel.genes) for section in sections]
        totals = [section.totals for section in sections]
        kept = np.flatnonzero(~out)
        reference = float(np.median(np.concatenate([totals[i] for i in kept])))
        of_gene = np.array([c.sum(axis=0) for c in counts])
        of_all = np.array([t.sum() for t in totals])
        rate = (of_gene[kept].sum(axis=0) + 0.5) / of_all[kept].sum()
        shift = np.log((of_gene + _PRIOR_COUNTS) / (of_all[:, None] * rate + _PRIOR_COUNTS))
        number = np.repeat(np.arange(len(sections)), [len(t) for t in totals])

        def there(values: NDArray[Any]) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        return cls(
            counts=there(np.concatenate(counts)),
            log_depth=there(np.log(np.concatenate(totals) / reference)),
            offset=there(shift[number]),
            section=number,
            start=there(np.log(rate * reference)),
        )


class _Fit:
    """A head and an encoder on their way."""

    def __init__(
        self, tuned: Tunable, table: _Table, settings: FineTuneSettings, device: torch.device, cancelled: CancelCheck
    ) -> None:
        self._tuned, self._table, self._settings = tuned, table, settings
        self._device, self._cancelled = device, cancelled
        self._head = CountHead(tuned.card.width, len(table.start), start=table.start).to(device)
        self._mean = torch.zeros(int(table.section.max()) + 1, tuned.card.width, device=device)
        self._sd = torch.ones(tuned.card.width, device=device)

    def begin(self, training: Sequence[Frame], validation: Sequence[Frame]) -> None:
        """Learn each section's mean features, the features' SD over training, and the head on them."""
        features = torch.zeros(len(self._table.counts), self._tuned.card.width, device=self._device)
        everything = [*training, *validation]
        with torch.inference_mode():
            for views in self._batches(everything, np.arange(len(everything)), seed=None):
                features[self._rows(views)] = self._encode(views)
        rows = torch.as_tensor(np.concatenate([frame.spots for frame in training]), device=self._device)
        for number in range(len(self._mean)):
            self._mean[number] = features[torch.as_tensor(self._table.section == number, device=self._device)].mean(0)
        spread = (features - self._mean[self._section(slice(None))])[rows].square().mean(0).sqrt()
        # Divided by the root of the width too: a step of the head then moves means as far, however wide the encoder is.
        self._sd = spread.clamp(min=float(_LEAST_SD * spread.median() + 1e-12)) * math.sqrt(features.shape[1])
        self._probe(features, rows)

    def _probe(self, features: Tensor, rows: Tensor) -> None:
        rng = np.random.default_rng((self._settings.seed, 0))
        decay = self._settings.weight_decay
        optimizer = torch.optim.AdamW(self._head.parameters(), lr=_HEAD_RATE, weight_decay=decay)
        for _ in range(_PROBE_STEPS):
            stop_if(self._cancelled)
            some = rows[torch.as_tensor(rng.permutation(len(rows))[:_PROBE_SPOTS], device=self._device)]
            optimizer.zero_grad()
            self._loss(features[some], some).backward()
            optimizer.step()

    def run(
        self, training: Sequence[Frame], validation: Sequence[Frame], on_progress: ProgressCallback
    ) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...], int]:
        """Train until nothing gets better; return weights, both losses and the best epoch."""
        settings = self._settings
        groups = layer_rates(self._tuned.network, settings.learning_rate, settings.layer_decay)
        groups.append({"params": list(self._head.parameters()), "lr": _HEAD_RATE / 10})
        optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        together = 1 if self._tuned.whole_windows else settings.batch_size
        steps = settings.epochs * math.ceil(len(training) / together)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
        losses, scores, best = [], [self._score(validation)], 0
        weights = _kept(self._tuned.network)
        on_progress(STAGE, 0, settings.epochs, f"validation loss {scores[0]:.4f}")
        for epoch in range(1, settings.epochs + 1):
            losses.append(self._epoch(training, optimizer, schedule, epoch))
            scores.append(self._score(validation))
            on_progress(STAGE, epoch, settings.epochs, f"validation loss {scores[-1]:.4f}")
            if scores[-1] < scores[best]:
                best, weights = epoch, _kept(self._tuned.network)
            elif epoch - best >= settings.patience:
                break
        on_progress(STAGE, settings.epochs, settings.epochs, "")
        return weights, tuple(losses), tuple(scores), best

    def _epoch(
        self,
        training: Sequence[Frame],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        epoch: int,
    ) -> float:
        seed = (self._settings.seed, epoch)
        order = np.random.default_rng(seed).permutation(len(training))
        total, spots = 0.0, 0
        for views in self._batches(training, order, seed=seed):
            rows = self._rows(views)
            optimizer.zero_grad()
            loss = self._loss(self._encode(views), rows)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], _MOST_GRADIENT)
            optimizer.step()
            schedule.step()
            total, spots = total + float(loss.detach()) * len(rows), spots + len(rows)
        return total / spots

    @torch.inference_mode()
    def _score(self, frames: Sequence[Frame]) -> float:
        total, spots = 0.0, 0
        for views in self._batches(frames, np.arange(len(frames)), seed=None):
            rows = self._rows(views)
            total, spots = total + float(self._loss(self._encode(views), rows)) * len(rows), spots + len(rows)
        return total / spots

    def _batches(
        self, frames: Sequence[Frame], order: NDArray[np.intp], *, seed: tuple[int, ...] | None
    ) -> Iterator[list[View]]:
        settings = self._settings
        size = 1 if self._tuned.whole_windows else settings.batch_size
        views = read_views(frames, order=order, threads=settings.threads, seed=seed, stain=settings.stain)
        while batch := list(islice(views, size)):
            stop_if(self._cancelled)
            yield batch

    def _encode(self, views: Sequence[View]) -> Tensor:
        images = [view.image.to(self._device) for view in views]
        return self._tuned.features(images, [view.centres.to(self._device) for view in views])

    def _rows(self, views: Sequence[View]) -> Tensor:
        return torch.as_tensor(np.concatenate([view.spots for view in views]), device=self._device)

    def _section(self, rows: Any) -> Tensor:
        return torch.as_tensor(self._table.section, device=self._device)[rows]

    def _loss(self, features: Tensor, rows: Tensor) -> Tensor:
        """Return minus the log-likelihood of a count, mean over spots and genes."""
        table = self._table
        standardised = (features - self._mean[self._section(rows)]) / self._sd
        counts = self._head(standardised, table.log_depth[rows]).at_depth(table.offset[rows])
        loss: Tensor = -counts.log_prob(table.counts[rows]).mean()
        return loss


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest: a short rise, then half a cosine."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def _kept(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
