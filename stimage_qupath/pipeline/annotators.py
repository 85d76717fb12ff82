"""Labels of single nuclei against predicted types, and two people against each other with the model beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from stimage_qupath.config import ValidateSettings
from stimage_qupath.pipeline.labelling import Labelling
from stimage_qupath.pipeline.validation_figures import Scores
from stimage_qupath.validation.agreement import Overlap, binary_kappa, cohen_kappa, confusion
from stimage_qupath.validation.annotations import codes_of

Names = NDArray[np.object_]


def label_agreement(labelling: Labelling, types: Names) -> dict[str, Any] | None:
    """Return confusion and kappa of a person's labels of nuclei and the run's own classes; None where one lacks."""
    return None if labelling.own is None else names_agreement(labelling.own, types)


def names_agreement(first: Names, second: Names) -> dict[str, Any] | None:
    """Return confusion and Cohen's kappa over the nuclei that both name; None without such a nucleus.

    Parameters
    ----------
    first, second
        (nucleus,) class or None.
    """
    both = np.array([a is not None and b is not None for a, b in zip(first, second, strict=True)], dtype=bool)
    if not both.any():
        return None
    classes = sorted({*first[both].tolist(), *second[both].tolist()})
    table = confusion(codes_of(first[both].tolist(), classes), codes_of(second[both].tolist(), classes), len(classes))
    return {
        "nuclei": int(both.sum()),
        "classes": classes,
        "confusion": table.tolist(),
        "agreement": float(np.trace(table) / table.sum()),
        "kappa": cohen_kappa(table),
    }


def compare_annotators(
    settings: ValidateSettings, first: Labelling, second: Labelling, scores: Scores, types: Names
) -> dict[str, Any]:
    """Return the figures of two people on the same nuclei, each beside those of the model with either.

    All three pairs are over the same nuclei: those that both people annotated, or all of the run with ``rest`` all.
    """
    named = [np.array([name is not None for name in one.names.tolist()], dtype=bool) for one in (first, second)]
    those = scores.predicted & (np.ones_like(named[0]) if settings.rest == "all" else named[0] & named[1])
    shared = [name for name in first.classes if name in second.classes]
    return {
        "file": second.file.name,
        "nuclei": int(those.sum()),
        "human_human": names_agreement(first.names, second.names),
        "labels": {
            "human_human": _both_own(first, second),
            "model_first": label_agreement(first, types),
            "model_second": label_agreement(second, types),
        },
        "classes": {name: _of_class(name, settings, (first, second), scores, those) for name in shared},
        "only_in_one": sorted(set(first.classes) ^ set(second.classes)),
    }


def _both_own(first: Labelling, second: Labelling) -> dict[str, Any] | None:
    return None if first.own is None or second.own is None else names_agreement(first.own, second.own)


def _of_class(
    name: str,
    settings: ValidateSettings,
    people: tuple[Labelling, Labelling],
    scores: Scores,
    those: NDArray[np.bool_],
) -> dict[str, Any]:
    masks = [np.asarray(one.names == name, dtype=bool)[those] for one in people]
    human = {**Overlap.of(*masks).to_dict(), "kappa": binary_kappa(*masks), "by_area": _areas(name, settings, people)}
    model = {}
    for gene in scores.genes:
        high = scores.high(gene)[those]
        model[gene] = {
            who: {**Overlap.of(high, mask).to_dict(), "kappa": binary_kappa(high, mask)}
            for who, mask in zip(("model_first", "model_second"), masks, strict=True)
        }
    return {"human_human": human, "genes": model}


def _areas(name: str, settings: ValidateSettings, people: tuple[Labelling, Labelling]) -> dict[str, float] | None:
    """Return the overlap of what both drew, by area; None where one labelled nuclei."""
    if any(one.kind != "annotations" for one in people):
        return None
    a, b = (one.area_of(name, settings.by) for one in people)
    return Overlap.from_sizes(both=shapely.intersection(a, b).area, a=a.area, b=b.area).to_dict()
