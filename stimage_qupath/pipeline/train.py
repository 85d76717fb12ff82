"""Measured sections in, model folder out, with the figures of sections that each prediction did not see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.config import TrainSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.models.baseline_store import CARD_KEY
from stimage_qupath.models.checkpoint import save_model
from stimage_qupath.models.encoders import Encoder, load_encoder
from stimage_qupath.models.recorded_encoder import encoder_record
from stimage_qupath.names import MODEL_JSON
from stimage_qupath.pipeline.baselines import images_of, keep_baselines
from stimage_qupath.pipeline.fine_tuning import CAVEAT, check_fine_tuning, fine_tune_into
from stimage_qupath.pipeline.stain_choice import choose_stain
from stimage_qupath.prediction.cache import choose_cache
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, never_cancelled, no_progress
from stimage_qupath.spots.panel_choice import PanelChoice, choose_panel
from stimage_qupath.spots.placement import place_sections
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.spots.section import MIN_TOTAL, Section
from stimage_qupath.spots.splits import BLOCK_UM
from stimage_qupath.training.dataset import EncodedSection, encode_sections
from stimage_qupath.training.recipe import Choice, Recipe, Trained, train_ensemble
from stimage_qupath.validation.expression import Measured, gene_residual_pcc, point_metrics

DEFAULT_GENES = 10
"""Genes QuPath gets unless asked otherwise: a measurement table that a person can read."""
LIKELIHOODS = {
    "nb": "negative binomial with depth as offset; total_count per gene, from out-of-fold predictions",
    "poisson": "Poisson with depth as offset",
}
PROTOCOL = (
    "spots under 200 counts left out; point metrics at reference depth, mean over genes; nothing computed from a "
    "held-out spot's counts enters its prediction; 95 % intervals by spatial-block bootstrap"
)


def run(
    settings: TrainSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Train a model and write its folder.

    Parameters
    ----------
    settings
        What to train on and how.
    on_progress, cancelled
        Progress and cancellation.

    Returns
    -------
    dict
        The card as written.

    Raises
    ------
    UsageError, CalibrationError, ImageError, OutputError
        Before anything stands under the final name.
    """
    device = choose_device(settings.device)
    training, held_out = _split(_sections(settings), settings.hold_out)
    chosen = choose_panel(
        None if settings.genes is None else str(settings.genes),
        training,
        number=settings.panel_size,
        min_detection=settings.min_detection,
    )
    encoder = load_encoder(
        settings.encoder,
        weights=None if settings.encoder_weights is None else str(settings.encoder_weights),
        precision=settings.precision,
    )
    recipe = _recipe(settings, encoder)
    check_fine_tuning(settings, encoder, training)
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        encode = partial(
            encode_sections,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            threads=settings.threads,
            on_progress=on_progress,
            cancelled=cancelled,
            cache=choose_cache(settings.cache, off=settings.no_cache),
        )
        stain = choose_stain(
            settings.stain_normalisation,
            training,
            chosen.panel,
            encode=partial(encode, encoder=encoder),
            recipe=recipe,
            cancelled=cancelled,
        )
        learnt: dict[str, Any] = {}
        if settings.fine_tune:
            encoder, learnt = fine_tune_into(
                folder.path,
                settings,
                encoder,
                training,
                chosen.panel,
                device=device,
                stain=stain.target,
                on_progress=on_progress,
                cancelled=cancelled,
            )
        encoded = encode(training + held_out, encoder=encoder, stain=stain.target)
        seen, unseen = encoded[: len(training)], encoded[len(training) :]
        trained = train_ensemble(seen, chosen.panel, recipe, on_progress=on_progress, cancelled=cancelled)
        on_progress("score", 0, 1, "")
        card = _card(settings, encoder, seen, trained, chosen) | _figures(seen, unseen, trained)
        card["stain"] = stain.record()
        card["images_seen"] = {"heads": [s.image_sha256 for s in seen], "encoder": sorted(images_of(encoder))}
        if learnt:
            card["fine_tuned"] = learnt
            card["held_out"]["out_of_fold"]["split"] += f"; {CAVEAT}"
        card[CARD_KEY] = keep_baselines(
            folder.path,
            seen,
            trained,
            encoder,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            threads=settings.threads,
            seed=settings.seed,
            cancelled=cancelled,
        )
        save_model(folder.path, card, trained.ensemble)
        folder.publish()
    on_progress("score", 1, 1, "")
    return card


def _sections(settings: TrainSettings) -> list[Section]:
    """Read the sections, see that their spots lie on tissue, and leave out spots of too few counts."""
    read = read_dataset(settings.dataset, gene_table=settings.gene_table)
    return [s.with_enough_counts() for s in place_sections(read, aggregate_um=settings.aggregate_um)]


def _recipe(settings: TrainSettings, encoder: Encoder) -> Recipe:
    widths = tuple(part.width for part in encoder.card.parts)
    return Recipe(settings.members, settings.seed, settings.likelihood, settings.recalibrate, blocks=widths)


def _why_keep(folder: Any) -> str | None:
    """Only a model folder may be replaced."""
    return None if (folder / MODEL_JSON).is_file() or not any(folder.iterdir()) else f"no {MODEL_JSON} in it"


def _split(sections: list[Section], hold_out: tuple[str, ...]) -> tuple[list[Section], list[Section]]:
    names = {section.name for section in sections}
    unknown = [name for name in hold_out if name not in names]
    if unknown:
        msg = f"expected sections out of {', '.join(sorted(names))} to hold out, found {', '.join(unknown)}"
        raise UsageError(msg)
    training = [section for section in sections if section.name not in hold_out]
    empty = [section.name for section in sections if not len(section.positions_px)]
    if not training or empty:
        found = f"none in {', '.join(empty)}" if empty else "every section held out"
        msg = f"expected training sections with spots of at least {MIN_TOTAL} counts, found {found}"
        raise UsageError(msg)
    return training, [section for section in sections if section.name in hold_out]


def _card(
    settings: TrainSettings,
    encoder: Encoder,
    seen: Sequence[EncodedSection],
    trained: Trained,
    choice: PanelChoice,
) -> dict[str, Any]:
    """Return what the card says of how the model was made."""
    weights = None if settings.encoder_weights is None else str(settings.encoder_weights)
    return {
        "name": settings.name or settings.output.name,
        "encoder": encoder_record(encoder, weights),
        "reference_total": trained.reference_total,
        "panel_choice": {
            "how": choice.how,
            "asked_but_not_measured": list(choice.missing),
            "notes": list(choice.notes),
        },
        "likelihood": LIKELIHOODS[settings.likelihood],
        "ensemble": {
            "members": settings.members,
            "bootstrap_level": trained.bootstrap_level,
            "seed": settings.seed,
            "penalty": trained.choice.penalty,
            "rank": trained.choice.rank,
            "tried": _tried(trained.choice),
            **_by_encoder(encoder, trained.choices),
        },
        "recalibration": {
            "method": settings.recalibrate,
            "sentence": trained.ensemble.recalibration.sentence,
        },
        "training": {
            "patients": len({s.section.patient for s in seen}),
            "licence": settings.licence,
            "min_total": MIN_TOTAL,
            "sections": [_section_record(s) for s in seen],
        },
    }


def _tried(choice: Choice) -> list[list[float]]:
    return [[p, k, round(score, 4)] for (p, k), score in choice.scores.items()]


def _by_encoder(encoder: Encoder, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return what was chosen for each of several encoders; members take turns with them."""
    if not encoder.card.parts:
        return {}
    each = [
        {"name": part.name, "penalty": choice.penalty, "rank": choice.rank, "tried": _tried(choice)}
        for part, choice in zip(encoder.card.parts, choices, strict=True)
    ]
    return {"by_encoder": each}


def _section_record(encoded: EncodedSection) -> dict[str, Any]:
    section = encoded.section
    return {
        "name": section.name,
        "patient": section.patient,
        "spots": len(section.positions_px),
        "median_total": float(np.median(section.totals)),
        "mpp": encoded.mpp,
        "image_sha256": encoded.image_sha256,
        "notes": list(section.notes),
    }


def _figures(seen: Sequence[EncodedSection], unseen: Sequence[EncodedSection], trained: Trained) -> dict[str, Any]:
    """Return the card's figures: each section by a model that did not see it, and each gene over those."""
    patients = {s.section.patient for s in seen}
    out_of_fold = {
        s.section.name: _score(s, mean.astype(np.float64), trained, same_patient=same)
        for s, mean, same in zip(seen, trained.out_of_fold, trained.same_patient, strict=True)
    }
    outer = {}
    for s in unseen:
        prediction = trained.ensemble.predict(s.features, device=torch.device("cpu"))
        same = s.section.patient in patients
        outer[s.section.name] = _score(s, prediction.mean.astype(np.float64), trained, same_patient=same)
    genes = _gene_figures(seen, trained)
    supported = sorted((g for g in genes if genes[g]["ci"][0] > 0), key=lambda g: -genes[g]["pcc_residual"])
    return {
        "default_genes": supported[:DEFAULT_GENES],
        "protocol": PROTOCOL,
        "block_um": BLOCK_UM,
        "held_out": {
            "out_of_fold": {"split": "leave one training section out", "sections": out_of_fold},
            "outer": {"split": "sections kept out of every choice, scored once", "sections": outer},
        },
        "genes": genes,
    }


def _measured(encoded: EncodedSection, panel: Panel) -> Measured:
    section = encoded.section
    return Measured(section.counts_of(panel.genes), section.totals, encoded.positions_um)


def _score(
    encoded: EncodedSection, mean: NDArray[np.float64], trained: Trained, *, same_patient: bool
) -> dict[str, Any]:
    metrics = point_metrics(
        _measured(encoded, trained.ensemble.panel), mean, rates=trained.rates, reference_total=trained.reference_total
    )
    return {
        "patient": encoded.section.patient,
        "same_patient_in_training": same_patient,
        "spots": len(encoded.features),
        **{name: figure.to_dict() for name, figure in metrics.items()},
    }


def _gene_figures(seen: Sequence[EncodedSection], trained: Trained) -> dict[str, dict[str, Any]]:
    """Return each gene's out-of-fold ``pcc_residual``, mean over sections, its interval, and its share in training."""
    panel = trained.ensemble.panel
    values, resamples = [], []
    for number, (encoded, mean) in enumerate(zip(seen, trained.out_of_fold, strict=True)):
        measured = _measured(encoded, panel)
        value, resampled = gene_residual_pcc(measured, mean.astype(np.float64), rates=trained.rates, seed=number)
        values.append(value)
        resamples.append(resampled)
    value = np.mean(values, axis=0)
    low, high = np.percentile(np.mean(resamples, axis=0), [2.5, 97.5], axis=0)
    return {
        gene: {
            "pcc_residual": round(float(v), 4),
            "ci": [round(float(a), 4), round(float(b), 4)],
            "training_rate": float(p),
        }
        for gene, v, a, b, p in zip(panel, value, low, high, trained.rates, strict=True)
    }


def _short(value: float) -> float:
    """Four decimals: the interval is some hundred times wider."""
    return round(float(value), 4)
