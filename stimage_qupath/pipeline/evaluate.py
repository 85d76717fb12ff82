"""Predictions scored on measured sections, with what any model must beat in the same table.

Nothing computed from a held-out spot's counts enters a prediction that is scored by correlation; the one baseline that
does (``observed_depth``) is there to show what such a score is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stimage_qupath.config import EvaluateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.export.partial_folder import PartialFolder
from stimage_qupath.export.run_record import to_json
from stimage_qupath.models.checkpoint import Model, load_model, model_folder
from stimage_qupath.models.encoders import Encoder, load_encoder
from stimage_qupath.names import EVALUATION_HTML, EVALUATION_JSON, GENES_CSV, research_use
from stimage_qupath.pipeline.baselines import colour_features, images_of, kept_baselines, serial_outlines, spots_of
from stimage_qupath.pipeline.evaluation_report import genes_table, write_report
from stimage_qupath.pipeline.hest import evaluate_hest
from stimage_qupath.pipeline.high import fit_high
from stimage_qupath.pipeline.perturb import perturb
from stimage_qupath.pipeline.record import Stopwatch, versions
from stimage_qupath.pipeline.score import Case, ScoredSection, score_section
from stimage_qupath.prediction.cache import choose_cache
from stimage_qupath.prediction.device import choose_device, default_batch_size
from stimage_qupath.regions.stain_overview import target_of
from stimage_qupath.results import CancelCheck, Panel, ProgressCallback, never_cancelled, no_progress, stop_if
from stimage_qupath.spots.panel_choice import choose_panel
from stimage_qupath.spots.placement import place_sections
from stimage_qupath.spots.readers import read_dataset
from stimage_qupath.spots.section import MIN_TOTAL, Section
from stimage_qupath.spots.splits import BLOCK_UM, Fold, leave_one_out
from stimage_qupath.training.dataset import EncodedSection, encode_sections
from stimage_qupath.training.recipe import Recipe, train_ensemble
from stimage_qupath.validation.baselines import ORACLES, fit_baselines
from stimage_qupath.validation.summary import MODEL, summarise

FOLD = "fold"
RULES = {FOLD: None, "detected": "detected:0.05"}
"""Words for ``--genes``, besides those of training: variable genes, or all detected ones, chosen in each fold."""
INDEPENDENT = (*RULES, "pam50", "oncotype", "mcpcounter", "markers")
"""Gene sets that no test section had a part in; of a user's list nothing is known."""


def run(
    settings: EvaluateSettings,
    on_progress: ProgressCallback = no_progress,
    cancelled: CancelCheck = never_cancelled,
) -> dict[str, Any]:
    """Score a model, or a way of training one, and write ``evaluation.json``, ``genes.csv`` and ``evaluation.html``.

    Returns
    -------
    dict
        What ``evaluation.json`` holds.

    Raises
    ------
    StimageError
        Of the kind that fits; nothing stands under the final name then.
    """
    watch = Stopwatch()
    device = choose_device(settings.device)
    model = None if settings.model is None else load_model(settings.model)
    sections = [section.with_enough_counts() for section in place_sections(read_dataset(settings.dataset))]
    stain = None if model is None else target_of(model.card)
    encoder = model.encoder if model else _encoder(settings)
    with PartialFolder(settings.output, force=settings.force, why_keep=_why_keep) as folder:
        if settings.protocol == "hest":
            evaluation = evaluate_hest(settings, sections, encoder, device, on_progress, cancelled)
        else:
            with watch.stage("encode", sum(len(s.positions_px) for s in sections)):
                encoded = encode_sections(
                    sections,
                    encoder,
                    **_how(settings, device),
                    on_progress=on_progress,
                    cancelled=cancelled,
                    stain=stain,
                )
            with watch.stage("fit"):
                cases = list(_cases(settings, model, encoder, encoded, device, on_progress, cancelled))
            with watch.stage("score", len(cases)):
                scored = list(_score(settings, cases, on_progress, cancelled))
            evaluation = _evaluation(settings, scored, model)
            if settings.perturb:
                with watch.stage("perturb"):
                    found = perturb(settings, cases, encoder, device, stain, on_progress, cancelled)
                    evaluation["perturbation"] = found
            evaluation["research_use"] = _research_use(model, encoded)
            evaluation |= {"settings": settings.to_dict(), "versions": versions(), "seconds": watch.record()["stages"]}
            genes_table(scored).to_csv(folder.path / GENES_CSV, index=False, float_format="%.5g", lineterminator="\n")
            write_report(folder.path / EVALUATION_HTML, evaluation, scored)
        (folder.path / EVALUATION_JSON).write_bytes(to_json(evaluation))
        folder.publish()
    return evaluation


def _why_keep(folder: Path) -> str | None:
    """Only an earlier evaluation may be replaced."""
    return None if (folder / EVALUATION_JSON).is_file() or not any(folder.iterdir()) else f"no {EVALUATION_JSON} in it"


def _encoder(settings: EvaluateSettings) -> Encoder:
    weights = None if settings.encoder_weights is None else str(settings.encoder_weights)
    return load_encoder(settings.encoder, weights=weights, precision=settings.precision)


def _how(settings: EvaluateSettings, device: torch.device) -> dict[str, Any]:
    batch_size = settings.batch_size or default_batch_size(device)
    cache = choose_cache(settings.cache, off=settings.no_cache)
    return {"device": device, "batch_size": batch_size, "threads": settings.threads, "cache": cache}


def _cases(
    settings: EvaluateSettings,
    model: Model | None,
    encoder: Encoder,
    encoded: Sequence[EncodedSection],
    device: torch.device,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> Iterator[Case]:
    if model is not None:
        yield from _of_model(settings, model, encoded, device, cancelled)
        return
    level = settings.leave_one_out or "section"
    folds = leave_one_out([s.section.patient for s in encoded], level)
    if not folds:
        msg = f"expected sections of at least two {level}s to leave one out, found one; add sections to the table"
        raise UsageError(msg)
    colour = colour_features(encoded, encoder, **_how(settings, device), cancelled=cancelled)
    outlines = serial_outlines(encoded)
    for number, fold in enumerate(folds):
        stop_if(cancelled)
        on_progress("fold", number, len(folds), ", ".join(encoded[i].section.name for i in fold.test))
        yield from _of_fold(settings, encoder, encoded, fold, (colour, outlines), cancelled)
    on_progress("fold", len(folds), len(folds), "")


def _of_model(
    settings: EvaluateSettings,
    model: Model,
    encoded: Sequence[EncodedSection],
    device: torch.device,
    cancelled: CancelCheck,
) -> Iterator[Case]:
    """Yield the sections with the model, and with the baselines its folder keeps."""
    kept = kept_baselines(model_folder(settings.model or ""), dict(model.card))
    ensemble = model.ensemble
    if settings.genes is not None:
        panel = _panel_of_model(settings, model, [s.section for s in encoded])
        ensemble = ensemble.take_genes(panel.genes)
        kept = None if kept is None else kept.of_genes(model.panel.index(panel.genes))
    rates = np.array([model.card["genes"][gene]["training_rate"] for gene in ensemble.panel])
    colour: list[Any] = [None] * len(encoded)
    outlines: list[Any] = [None] * len(encoded)
    if kept is not None and kept.colour is not None:
        colour = colour_features(encoded, model.encoder, **_how(settings, device), cancelled=cancelled)
    if kept is not None:
        outlines = serial_outlines(encoded, [outline.patient for outline in kept.outlines])
    by_heads = {s["image_sha256"] for s in model.card["training"]["sections"]}
    by_encoder = set(model.card.get("images_seen", {}).get("encoder", ()))
    for one, shades, outline in zip(encoded, colour, outlines, strict=True):
        note = "image not seen"
        if one.image_sha256 in by_heads:
            note = "image seen in training"
        elif one.image_sha256 in by_encoder:
            note = "transductive: image seen by the encoder"
        test = spots_of([one], ensemble.panel, ensemble.heads, colour=[shades], outlines=[outline])
        reference = float(model.card["reference_total"])
        yield Case(one, ensemble, rates, reference, kept, test, note, note != "image not seen")


def _panel_of_model(settings: EvaluateSettings, model: Model, sections: Sequence[Section]) -> Panel:
    word = str(settings.genes)
    if word in RULES or ":" in word:
        msg = f"expected a list of genes with a finished model, found '{word}'; its panel was chosen before"
        raise UsageError(msg)
    asked = choose_panel(word, sections).panel
    shared = tuple(gene for gene in asked if gene in model.panel.genes)
    if not shared:
        msg = f"expected genes of the panel of model '{model.name}' in {settings.genes}, found none of them"
        raise UsageError(msg)
    return Panel(shared)


def _of_fold(
    settings: EvaluateSettings,
    encoder: Encoder,
    encoded: Sequence[EncodedSection],
    fold: Fold,
    seen: tuple[Sequence[Any], Sequence[Any]],
    cancelled: CancelCheck,
) -> Iterator[Case]:
    """Train on a fold's training sections and yield those left out; ``seen`` holds colour features and outlines."""
    training = [encoded[i] for i in fold.train]
    panel = _panel_of_fold(settings, [s.section for s in training])
    trained = train_ensemble(
        training,
        panel,
        Recipe(
            settings.members,
            settings.seed,
            settings.likelihood,
            settings.recalibrate,
            blocks=tuple(part.width for part in encoder.card.parts),
        ),
        on_progress=no_progress,
        cancelled=cancelled,
    )
    heads = trained.ensemble.heads

    def spots(indices: Sequence[int]) -> Any:
        colour, outlines = ([of[i] for i in indices] for of in seen)
        return spots_of([encoded[i] for i in indices], panel, heads, colour=colour, outlines=outlines)

    train = spots(fold.train)
    fitted = fit_baselines(train, reference_total=trained.reference_total)
    high = fit_high(train, trained.ensemble, trained.reference_total)
    note = "same patient in training" if fold.same_patient else "patient not in training"
    by_encoder = images_of(encoder)
    for index in fold.test:
        known = encoded[index].image_sha256 in by_encoder
        said = f"{note}; transductive: image seen by the encoder" if known else note
        reference = trained.reference_total
        test = spots([index])
        yield Case(encoded[index], trained.ensemble, trained.rates, reference, fitted, test, said, known, high)


def _panel_of_fold(settings: EvaluateSettings, training: Sequence[Section]) -> Panel:
    """Return the genes of one fold, chosen on its training sections where no list is given."""
    word = FOLD if settings.genes is None else str(settings.genes)
    return choose_panel(RULES.get(word, word), training, number=settings.panel_size).panel


def _score(
    settings: EvaluateSettings, cases: Sequence[Case], on_progress: ProgressCallback, cancelled: CancelCheck
) -> Iterator[ScoredSection]:
    for number, case in enumerate(cases):
        stop_if(cancelled)
        on_progress("score", number, len(cases), case.encoded.section.name)
        # Another seed a section: their resamples are independent, those of methods on one section are paired.
        yield score_section(case, replicates=settings.replicates, seed=settings.seed + number)
    on_progress("score", len(cases), len(cases), "")


def _evaluation(settings: EvaluateSettings, scored: Sequence[ScoredSection], model: Model | None) -> dict[str, Any]:
    names = [one.case.encoded.section.name for one in scored]
    patients = [one.case.encoded.section.patient for one in scored]
    baselines: dict[str, dict[str, Any]] = {}
    points = {MODEL: {name: one.point for name, one in zip(names, scored, strict=True)}}
    for name, one in zip(names, scored, strict=True):
        for baseline, figures in one.baselines.items():
            entry = baselines.setdefault(baseline, {"oracle": baseline in ORACLES, "sections": {}})
            entry["sections"][name] = figures
            points.setdefault(baseline, {})[name] = one.baseline_points[baseline]
    return {
        "split": f"leave one {settings.leave_one_out} out" if settings.leave_one_out else "a finished model",
        "protocol": {
            "name": "stimage",
            "min_total": MIN_TOTAL,
            "block_um": BLOCK_UM,
            "replicates": settings.replicates,
        },
        "patients": len(set(patients)),
        "gene_set": _gene_set(settings, scored, model),
        "sections": {name: one.figures for name, one in zip(names, scored, strict=True)},
        "baselines": baselines,
        "summary": summarise(points, dict(zip(names, patients, strict=True))),
        "warnings": sorted({f"{n}: {w}" for n, s in zip(names, scored, strict=True) for w in s.figures["warnings"]}),
    }


def _gene_set(settings: EvaluateSettings, scored: Sequence[ScoredSection], model: Model | None) -> dict[str, Any]:
    panels = {one.case.panel.genes for one in scored}
    names = "\n".join(",".join(genes) for genes in sorted(panels))
    given = None if settings.genes is None else settings.genes.name
    independent = given is None or given in INDEPENDENT or ":" in given
    if model is not None:
        # Of a list that the user gave to training nobody knows which sections it was chosen with.
        independent = independent and "given by the user" not in model.card.get("panel_choice", {}).get("how", "")
    return {
        "name": given or ("panel of the model" if settings.model else FOLD),
        "sha256": hashlib.sha256(names.encode()).hexdigest(),
        "size": max(len(genes) for genes in panels),
        "chosen_without_test_sections": independent,
    }


def _research_use(model: Model | None, encoded: Sequence[EncodedSection]) -> str:
    return model.research_use if model else research_use(len({s.section.patient for s in encoded}))
