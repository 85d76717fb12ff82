"""Predictions scored on measured sections, with what any model must beat in the same table.

Nothing computed from a held-out spot's counts enters a prediction that is scored by correlation; the one baseline that
does (``observed_depth``) is there to show what such a score is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.config import EvaluateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_record import to_json
from stimage_qupath.models.checkpoint import load_model
from stimage_qupath.models.encoders import Encoder, load_encoder
from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE, mixture_cdf
from stimage_qupath.names import EVALUATION_JSON
from stimage_qupath.pipeline.record import versions
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.spots.genes import read_panel, variable_genes, well_known
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.spots.section import MIN_TOTAL
from stimage_qupath.spots.splits import BLOCK_UM, Fold, leave_one_out
from stimage_qupath.training.dataset import EncodedSection, encode_sections
from stimage_qupath.training.recipe import train_ensemble
from stimage_qupath.validation.baselines import ORACLES, Spots, predict_baselines
from stimage_qupath.validation.calibration import coverage, coverage_by_stratum, pit_histogram, randomised_pit
from stimage_qupath.validation.expression import Interval, Measured, point_metrics

MODEL = "model"
LEAST_FOR_SUMMARY = 3
"""Sections under which no mean is printed."""


def run(
    settings: EvaluateSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Score a model, or a way of training one, and write ``evaluation.json``.

    Returns
    -------
    dict
        What ``evaluation.json`` holds.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    device = choose_device(settings.device)
    model = None if settings.model is None else load_model(settings.model)
    sections = [section.with_enough_counts() for section in read_dataset(settings.dataset)]
    encoder = model.encoder if model else _encoder(settings)
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        encoded = encode_sections(
            sections,
            encoder,
            device=device,
            batch_size=settings.batch_size or default_batch_size(device),
            threads=settings.threads,
            on_progress=on_progress,
            cancelled=cancelled,
        )
        if model is not None:
            seen = {s["image_sha256"] for s in model.card["training"]["sections"]}
            rates = np.array([model.card["genes"][gene]["training_rate"] for gene in model.panel])
            reference = float(model.card["reference_total"])
            scored = [
                _Scored(
                    s,
                    model.ensemble,
                    rates,
                    reference,
                    {},
                    "image seen in training" if s.image_sha256 in seen else "image not seen",
                )
                for s in encoded
            ]
        else:
            scored = list(_folds(settings, encoded, on_progress, cancelled))
        evaluation = _evaluation(settings, scored, on_progress, cancelled)
        (folder.path / EVALUATION_JSON).write_bytes(to_json(evaluation))
        folder.publish()
    return evaluation


def _why_keep(folder: Path) -> str | None:
    """Only an earlier evaluation may be replaced."""
    return None if (folder / EVALUATION_JSON).is_file() or not any(folder.iterdir()) else f"no {EVALUATION_JSON} in it"


def _encoder(settings: EvaluateSettings) -> Encoder:
    weights = None if settings.encoder_weights is None else str(settings.encoder_weights)
    return load_encoder(settings.encoder, weights=weights)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A section, the ensemble that is scored on it, and what the baselines say of it."""

    encoded: EncodedSection
    ensemble: Ensemble
    rates: NDArray[np.float64]
    reference_total: float
    baselines: dict[str, Any]
    note: str

    @property
    def panel(self) -> Panel:
        return self.ensemble.panel

    @property
    def measured(self) -> Measured:
        section = self.encoded.section
        return Measured(section.counts_of(self.panel.genes), section.totals, self.encoded.positions_um)


def _folds(
    settings: EvaluateSettings, encoded: Sequence[EncodedSection], on_progress: ProgressCallback, cancelled: CancelCheck
) -> Iterator[_Scored]:
    """Train on each fold's training sections and yield the sections left out."""
    level = settings.leave_one_out or "section"
    folds = leave_one_out([s.section.patient for s in encoded], level)
    if not folds:
        msg = f"expected sections of at least two {level}s to leave one out, found one; add sections to the table"
        raise UsageError(msg)
    for number, fold in enumerate(folds):
        stop_if(cancelled)
        on_progress("fold", number, len(folds), ", ".join(encoded[i].section.name for i in fold.test))
        yield from _fold(settings, encoded, fold, cancelled)
    on_progress("fold", len(folds), len(folds), "")


def _fold(
    settings: EvaluateSettings, encoded: Sequence[EncodedSection], fold: Fold, cancelled: CancelCheck
) -> Iterator[_Scored]:
    training = [encoded[i] for i in fold.train]
    measured = [s.section for s in training]
    if settings.genes is None:
        panel = variable_genes(measured, number=settings.panel_size, keep=well_known())
    else:
        panel, _ = read_panel(settings.genes, measured)
    trained = train_ensemble(
        training, panel, members=settings.members, seed=settings.seed, on_progress=no_progress, cancelled=cancelled
    )
    heads = trained.ensemble.heads
    known = _spots([(s, heads.standardise(s.features)) for s in training], panel)
    note = "same patient in training" if fold.same_patient else "patient not in training"
    for index in fold.test:
        asked = _spots([(encoded[index], heads.standardise(encoded[index].features))], panel)
        baselines = predict_baselines(known, asked, reference_total=trained.reference_total, seed=settings.seed)
        yield _Scored(encoded[index], trained.ensemble, trained.rates, trained.reference_total, dict(baselines), note)


def _spots(sections: Sequence[tuple[EncodedSection, NDArray[np.float32]]], panel: Panel) -> Spots:
    return Spots(
        features=np.concatenate([features for _, features in sections]).astype(np.float64),
        counts=np.concatenate([s.section.counts_of(panel.genes) for s, _ in sections]),
        totals=np.concatenate([s.section.totals for s, _ in sections]),
        section=np.repeat(np.arange(len(sections)), [len(features) for _, features in sections]),
    )


def _evaluation(
    settings: EvaluateSettings, scored: Sequence[_Scored], on_progress: ProgressCallback, cancelled: CancelCheck
) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    baselines: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(scored):
        stop_if(cancelled)
        name = one.encoded.section.name
        on_progress("score", number, len(scored), name)
        figures = _score(settings, one)
        sections[name] = figures.pop(MODEL) | _calibration(settings, one)
        for baseline, of_section in figures.items():
            baselines.setdefault(baseline, {"oracle": baseline in ORACLES, "sections": {}})["sections"][name] = (
                of_section
            )
    on_progress("score", len(scored), len(scored), "")
    return {
        "split": f"leave one {settings.leave_one_out} out" if settings.leave_one_out else "a finished model",
        "protocol": {"min_total": MIN_TOTAL, "block_um": BLOCK_UM, "replicates": settings.replicates},
        "patients": len({one.encoded.section.patient for one in scored}),
        "gene_set": _gene_set(settings, scored),
        "sections": sections,
        "baselines": baselines,
        "summary": _summary(sections, baselines),
        "settings": settings.to_dict(),
        "versions": versions(),
    }


def _score(settings: EvaluateSettings, one: _Scored) -> dict[str, dict[str, Any]]:
    """Return the point metrics of the model and each baseline, and the model's lead over each, paired."""
    scored_as = partial(
        point_metrics,
        one.measured,
        rates=one.rates,
        reference_total=one.reference_total,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    prediction = one.ensemble.predict(one.encoded.features, device=torch.device("cpu"))
    model = scored_as(prediction.mean.astype(np.float64))
    said_of_it = {"patient": one.encoded.section.patient, "note": one.note}
    found: dict[str, dict[str, Any]] = {MODEL: said_of_it | _plain(model)}
    for name, baseline in one.baselines.items():
        metrics = scored_as(baseline.mean, predicted_residual=baseline.residual)
        lead = {metric: model[metric].minus(metrics[metric]) for metric in model}
        found[name] = _plain(metrics) | {"model_lead": _plain(lead)}
    return found


def _plain(figures: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in figures.items()}


def _calibration(settings: EvaluateSettings, one: _Scored) -> dict[str, Any]:
    """Return randomised coverage at the measured depth, pooled and by the gene's mean in training."""
    heads, measured = one.ensemble.heads, one.measured
    features = one.ensemble.known(one.encoded.features)
    size = (measured.totals / one.reference_total)[:, None]
    cdf, below = np.zeros(measured.counts.shape), np.zeros(measured.counts.shape)
    for weight, bias, log_r in zip(heads.weight, heads.bias, heads.log_total_count, strict=True):
        mean = size * np.exp(np.clip(features @ weight + bias, *LOG_MEAN_RANGE))
        r = np.exp(log_r)[None]
        cdf += mixture_cdf(measured.counts, mean[None], r[None]) / len(heads.weight)
        below += mixture_cdf(measured.counts - 1, mean[None], r[None]) / len(heads.weight)
    pit = randomised_pit(cdf, below, seed=settings.seed)
    typical = one.rates * one.reference_total
    return {
        "coverage": coverage(pit),
        "coverage_by_training_mean": coverage_by_stratum(pit, typical),
        "pit_histogram": pit_histogram(pit),
    }


def _gene_set(settings: EvaluateSettings, scored: Sequence[_Scored]) -> dict[str, Any]:
    panels = {one.panel.genes for one in scored}
    names = "\n".join(",".join(genes) for genes in sorted(panels))
    how = settings.genes.name if settings.genes else "panel of the model" if settings.model else "chosen in each fold"
    return {
        "name": how,
        "sha256": hashlib.sha256(names.encode()).hexdigest(),
        "size": sorted({len(genes) for genes in panels}),
    }


def _summary(sections: dict[str, Any], baselines: dict[str, Any]) -> dict[str, Any]:
    """Return means over sections, where there are three or more."""
    if len(sections) < LEAST_FOR_SUMMARY:
        return {"note": f"no mean over {len(sections)} sections"}
    everything = {MODEL: sections} | {name: b["sections"] for name, b in baselines.items()}
    metrics = [key for key, value in next(iter(sections.values())).items() if isinstance(value, dict) and "ci" in value]
    return {
        name: {metric: float(np.mean([s[metric]["value"] for s in of.values()])) for metric in metrics}
        for name, of in everything.items()
    }
