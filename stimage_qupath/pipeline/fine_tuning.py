"""An encoder learnt further for one model, kept in the model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stimage_qupath.config import TrainSettings
from stimage_qupath.models.checkpoint import write_encoder
from stimage_qupath.models.encoders import Encoder
from stimage_qupath.models.recorded_encoder import TunedWeights, load_recorded
from stimage_qupath.pipeline.baselines import images_of
from stimage_qupath.prediction.cache import choose_cache, file_sha256
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback
from stimage_qupath.slide.stain_normalisation import Appearance
from stimage_qupath.spots.section import Section
from stimage_qupath.training.fine_tune import FineTuneSettings, choose_held_out, fine_tune
from stimage_qupath.training.tunable import as_tunable

CAVEAT = (
    "the encoder was fine-tuned on the counts of these sections, so that the figures are too good and the intervals "
    "may be too narrow; sections held out of training say what the model is worth"
)


def check_fine_tuning(settings: TrainSettings, encoder: Encoder, training: Sequence[Section]) -> None:
    """Refuse early what cannot be fine-tuned.

    Raises
    ------
    UsageError
        The encoder has no gradients, or there is one section only.
    """
    if settings.fine_tune:
        as_tunable(encoder, torch.device("cpu"))
        choose_held_out(training, seed=settings.seed)


def fine_tune_into(
    folder: Path,
    settings: TrainSettings,
    encoder: Encoder,
    training: Sequence[Section],
    panel: Panel,
    *,
    device: torch.device,
    stain: Appearance | None,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> tuple[Encoder, dict[str, Any]]:
    """Learn the encoder further, write its weights, and return it with what the card says.

    Parameters
    ----------
    folder
        Model folder.
    settings, encoder, training, panel
        How, what, and on what.
    device, stain, on_progress, cancelled
        As in :func:`stimage_qupath.training.fine_tune.fine_tune`.
    """
    default = FineTuneSettings()
    rate = default.learning_rate if settings.learning_rate is None else settings.learning_rate
    how = FineTuneSettings(
        epochs=settings.fine_tune_epochs or default.epochs,
        learning_rate=rate,
        batch_size=settings.batch_size or default.batch_size,
        seed=settings.seed,
        threads=settings.threads,
    )
    tuned = fine_tune(
        encoder,
        training,
        panel,
        settings=how,
        device=device,
        stain=stain,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    write_encoder(folder, tuned.weights)
    cache = choose_cache(settings.cache, off=settings.no_cache)
    hashed = file_sha256 if cache is None else cache.image_sha256
    seen = images_of(encoder) | {hashed(section.image) for section in training}
    # By the way of a model that is loaded: what is trained on these features is what will be predicted with.
    record = encoder.card.to_dict() | {"weights_sha256": tuned.sha256}
    learnt = load_recorded(record, TunedWeights(tuned.weights, seen))
    return learnt, tuned.record() | {"learning_rate": rate, "layer_decay": how.layer_decay, "caveat": CAVEAT}
