"""Shares of cell types in spots of her2st against stereoscope's, each section left out of training in turn.

    python tests/benchmarks/cell_types_her2st.py HER2ST_FOLDER [--members 10] [--output FILE]

Agreement with stereoscope, which is itself estimated from the counts of the same spots: not with the truth. C2, C3, C4
and C6 are of one patient and are left out one by one; B4, of another patient, is predicted from all four. The penalty
of the heads is chosen by blocks, that of the colour ridge by sections left out of the training sections. Intervals and
differences are over 600 um blocks of the section that was left out, 1,000 resamples.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.prediction.cache import FeatureCache, default_folder, file_sha256
from stimage_qupath.prediction.nucleus_features import NucleusFeatures
from stimage_qupath.results import never_cancelled
from stimage_qupath.slide.reader import open_slide
from stimage_qupath.training.cell_types_dataset import Encoding
from stimage_qupath.training.cell_types_fit import FitSettings, fit_cell_types
from stimage_qupath.training.cell_types_places import spot_proportions
from stimage_qupath.training.labelled_images import LabelledImage, join_images
from stimage_qupath.validation.shares import resampled_agreement

MPP = 0.69
SAME_PATIENT = ("C2", "C3", "C4", "C6")
OTHER_PATIENT = "B4"
ENCODER = "context+colour"
RIDGE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
Predict = Callable[[Sequence[LabelledImage], LabelledImage], np.ndarray]


def section(folder: Path, shares: Path, name: str, encoder: str) -> LabelledImage:
    """Return a section with its proportions and features."""
    image = folder / "images" / f"{name}.jpg"
    sha256 = file_sha256(image)
    features = NucleusFeatures(load_encoder(encoder), appearance=False, shape=False)
    encoding = Encoding(
        features=features, device=torch.device("cpu"), batch_size=64, cache=FeatureCache(default_folder())
    )
    with open_slide(image) as slide:
        spots = folder / "spots" / f"{name}_selection.tsv"
        labels = spot_proportions(shares / f"{name}-proportion.tsv", slide, MPP, spots=spots, nuclei=None)
        found = encoding(slide, MPP, labels, sha256, never_cancelled)
    return LabelledImage(name, name[0], "CC BY 4.0", "proportions", MPP, sha256, labels, found)


def target(image: LabelledImage) -> np.ndarray:
    """Return stereoscope's shares, (spot, class) by sorted class."""
    return image.labels.shares.sort_index(axis=1).to_numpy()


def heads(members: int) -> Predict:
    """Return what fits and predicts with softmax heads."""

    def predict(training: Sequence[LabelledImage], test: LabelledImage) -> np.ndarray:
        places, classes, _ = join_images(training, level="neighbourhood")
        fit = fit_cell_types(places, classes, FitSettings(members=members, balanced=False))
        return fit.ensemble.predict(test.features).probability.astype(float)

    return predict


def ridge(penalty: float) -> Predict:
    """Return what fits and predicts with ridge regression on standardised features."""

    def predict(training: Sequence[LabelledImage], test: LabelledImage) -> np.ndarray:
        x = np.concatenate([image.features for image in training]).astype(float)
        y = np.concatenate([target(image) for image in training])
        mean, sd = x.mean(axis=0), x.std(axis=0) + 1e-6
        x = (x - mean) / sd
        dual = np.linalg.solve(x @ x.T + penalty * len(x) * np.eye(len(x)), y - y.mean(axis=0))
        return (test.features - mean) / sd @ (x.T @ dual) + y.mean(axis=0)

    return predict


def inner(training: Sequence[LabelledImage], predict: Predict) -> float:
    """Return the mean correlation over classes, with each of the training sections left out in turn."""
    found = []
    for number, test in enumerate(training):
        others = [image for i, image in enumerate(training) if i != number]
        _, mean = resampled_agreement(predict(others, test), target(test), _um(test), seed=0, replicates=1)
        found.append(mean.value)
    return float(np.mean(found))


def _um(image: LabelledImage) -> np.ndarray:
    return image.labels.points_px * image.mpp


def scored(sections: dict[str, dict[str, LabelledImage]], held_out: str, members: int) -> dict[str, object]:
    """Return model, colour ridge and their difference on one section."""
    training = [name for name in SAME_PATIENT if name != held_out]
    of = {encoder: [sections[encoder][name] for name in training] for encoder in (ENCODER, "colour")}
    penalty = max(RIDGE_PENALTIES, key=lambda p: inner(of["colour"], ridge(p)))
    truth, um = target(sections["colour"][held_out]), _um(sections["colour"][held_out])
    predictions = {
        "colour_ridge": ridge(penalty)(of["colour"], sections["colour"][held_out]),
        "model": heads(members)(of[ENCODER], sections[ENCODER][held_out]),
    }
    figures = {what: resampled_agreement(values, truth, um, seed=0) for what, values in predictions.items()}
    classes = [*sections["colour"][held_out].labels.shares.sort_index(axis=1).columns, "mean of classes"]
    (ours, our_mean), (theirs, their_mean) = figures["model"], figures["colour_ridge"]
    table = {
        name: {"model": a.to_dict(), "colour_ridge": b.to_dict(), "difference": a.minus(b).to_dict()}
        for name, a, b in zip(classes, [*ours, our_mean], [*theirs, their_mean], strict=True)
    }
    return {"encoder": ENCODER, "ridge_penalty": penalty, "spots": len(truth), "classes": table}


def main() -> None:
    """Score each section and print a line a class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(asked.folder / "cell_types" / "major.zip") as file:
            file.extractall(scratch)
        shares = Path(scratch) / "major"
        sections = {
            encoder: {name: section(asked.folder, shares, name, encoder) for name in (*SAME_PATIENT, OTHER_PATIENT)}
            for encoder in (ENCODER, "colour")
        }
    for name in (*SAME_PATIENT, OTHER_PATIENT):
        found[name] = scored(sections, name, asked.members)
        note = "another patient" if name == OTHER_PATIENT else "same patient"
        sys.stdout.write(f"{name} ({note}), colour ridge {found[name]['ridge_penalty']:g}\n")
        for label, row in found[name]["classes"].items():
            model, colour, gap = row["model"], row["colour_ridge"], row["difference"]
            sys.stdout.write(
                f"  {label:16} {model['value']:.3f} [{model['ci'][0]:.3f}, {model['ci'][1]:.3f}]  "
                f"colour ridge {colour['value']:.3f}  "
                f"difference {gap['value']:+.3f} [{gap['ci'][0]:+.3f}, {gap['ci'][1]:+.3f}]\n"
            )
        sys.stdout.flush()
    if asked.output:
        asked.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
