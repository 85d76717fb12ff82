"""HEST-Benchmark's protocol on any encoder and any sections; see :mod:`stimage_qupath.validation.hest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stimage_qupath.config import EvaluateSettings
from stimage_qupath.errors import UsageError
from stimage_qupath.models.encoders import COLOUR, Encoder, EncoderCard
from stimage_qupath.pipeline.record import versions
from stimage_qupath.prediction.device import default_batch_size
from stimage_qupath.results import CancelCheck, ProgressCallback, stop_if
from stimage_qupath.spots.panel_choice import choose_panel
from stimage_qupath.spots.residuals import column_pearson
from stimage_qupath.spots.section import Section
from stimage_qupath.spots.splits import leave_one_out
from stimage_qupath.training.dataset import encode_sections
from stimage_qupath.validation import hest
from stimage_qupath.validation.bootstrap import BlockBootstrap


@dataclass(slots=True)
class TileOf112um:
    """An encoder that sees the benchmark's tile: 112 um, at as many pixels as the network takes."""

    encoder: Encoder
    card: EncoderCard

    @classmethod
    def of(cls, encoder: Encoder) -> TileOf112um:
        """Return the encoder at the benchmark's scale; ``colour`` has windows of its own and stays as it is."""
        if encoder.card.name == COLOUR:
            return cls(encoder, encoder.card)
        if encoder.card.parts:
            msg = f"expected one encoder for the benchmark's tile, found {encoder.card.name}; score each alone"
            raise UsageError(msg)
        return cls(encoder, replace(encoder.card, mpp=hest.TILE_UM / encoder.card.tile_px))

    def encode(
        self,
        image: NDArray[np.uint8],
        centres: NDArray[np.float64],
        *,
        device: torch.device,
        batch_size: int,
        cancelled: CancelCheck,
    ) -> NDArray[np.float32]:
        """Return features; see :class:`stimage_qupath.models.encoders.Encoder`."""
        return self.encoder.encode(image, centres, device=device, batch_size=batch_size, cancelled=cancelled)


def evaluate_hest(
    settings: EvaluateSettings,
    sections: Sequence[Section],
    encoder: Encoder,
    device: torch.device,
    on_progress: ProgressCallback,
    cancelled: CancelCheck,
) -> dict[str, Any]:
    """Return what ``evaluation.json`` holds under this protocol.

    Raises
    ------
    UsageError
        There are fewer than two patients and no other way to split was asked for.
    """
    folds = leave_one_out([s.patient for s in sections], settings.leave_one_out or "patient")
    if not folds:
        msg = "expected sections of at least two patients, found one; add sections, or pass --leave-one-out section"
        raise UsageError(msg)
    genes = _genes(settings, sections)
    scaled = TileOf112um.of(encoder)
    encoded = encode_sections(
        sections,
        scaled,
        device=device,
        batch_size=settings.batch_size or default_batch_size(device),
        threads=settings.threads,
        on_progress=on_progress,
        cancelled=cancelled,
    )
    features = [s.features.astype(np.float64) for s in encoded]
    counts = [s.section.counts_of(genes) for s in encoded]
    found: dict[str, Any] = {}
    by_fold = []
    for number, fold in enumerate(folds):
        stop_if(cancelled)
        on_progress("fold", number, len(folds), "")
        x, y = (np.concatenate([of[i] for i in fold.train]) for of in (features, counts))
        predicted = {i: hest.predict(x, y, features[i]) for i in fold.test}
        # The benchmark correlates over all spots of a fold, whatever their sections.
        pooled = column_pearson(
            *(np.concatenate([of[i] for i in fold.test]) for of in (list(map(np.log1p, counts)), predicted))
        )
        by_fold.append(float(np.nanmean(pooled)))
        for i in fold.test:
            positions = encoded[i].positions_um
            bootstrap = BlockBootstrap.draw(positions, replicates=settings.replicates, seed=settings.seed + number)
            result = hest.score_fold(predicted[i], counts[i], bootstrap)
            found[sections[i].name] = {
                "patient": sections[i].patient,
                "note": "same patient in training" if fold.same_patient else "patient not in training",
                "pearson_mean": result.mean.to_dict(),
                "genes": {gene: float(r) for gene, r in zip(genes, result.pcc, strict=True)},
            }
    on_progress("fold", len(folds), len(folds), "")
    return {
        "split": f"leave one {settings.leave_one_out or 'patient'} out",
        "protocol": {"name": "hest", "tile_um": scaled.card.tile_um, "tile_px": scaled.card.tile_px},
        "encoder": scaled.card.to_dict(),
        "patients": len({s.patient for s in sections}),
        "gene_set": {"names": list(genes), "size": len(genes), "chosen_without_test_sections": False},
        "sections": found,
        "summary": {"pearson_mean": float(np.mean(by_fold)), "pearson_sd": float(np.std(by_fold)), "by_fold": by_fold},
        "warnings": [],
        "settings": settings.to_dict(),
        "versions": versions(),
    }


def _genes(settings: EvaluateSettings, sections: Sequence[Section]) -> tuple[str, ...]:
    """Return the benchmark's own list where the user has it, else genes chosen as it chooses them."""
    if settings.genes is not None:
        return choose_panel(str(settings.genes), sections).panel.genes
    common = tuple(sorted(set(sections[0].genes).intersection(*(s.genes for s in sections[1:]))))
    return hest.variable_genes([s.counts_of(common) for s in sections], common)
