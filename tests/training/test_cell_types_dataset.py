"""What is left out together when cell types are learnt, and tables that cannot be read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stimage_qupath.errors import CalibrationError, UsageError
from stimage_qupath.models.encoders import load_encoder
from stimage_qupath.prediction.nucleus_features import NucleusFeatures
from stimage_qupath.results import never_cancelled, no_progress
from stimage_qupath.training.cell_types_dataset import Encoding, read_labelled_images
from stimage_qupath.training.cell_types_labels import Labels, one_hot
from stimage_qupath.training.labelled_images import LabelledImage, join_images


def image(patient, types, *, spread_um=5000.0, seed=0):
    points = np.random.default_rng(seed).uniform(0, spread_um, (len(types), 2)) / 0.5
    labels = Labels(points, one_hot(types), np.ones(len(types)))
    return LabelledImage("i", patient, "CC0", "geojson", 0.5, "", labels, np.zeros((len(types), 2), np.float32))


def test_patients_are_left_out_whole_where_there_are_five():
    images = [image(f"P{i % 5}", ["a", "b"] * 3) for i in range(7)]
    places, classes, split = join_images(images, level="nucleus")
    assert (split, classes) == ("patient", ("a", "b"))
    assert len(np.unique(places.unit)) == 5
    assert len(np.unique(places.unit[:6])) == 1
    assert places.unit[0] == places.unit[30]  # the sixth image is of the first patient


def test_else_images_else_blocks_that_shrink_until_there_are_five():
    assert join_images([image("P", ["a", "b"]) for _ in range(5)], level="nucleus")[2] == "image"
    wide = [image("P", ["a", "b"] * 40)]
    assert join_images(wide, level="nucleus")[2] == "spatial block of 200 um"
    assert join_images(wide, level="region")[2] == "spatial block of 600 um"
    places, _, split = join_images([image("P", ["a", "b"] * 40, spread_um=350)], level="region")
    assert split == "spatial block of 150 um"
    assert len(np.unique(places.unit)) >= 5


def test_classes_of_all_images_are_joined_and_one_alone_is_refused():
    places, classes, _ = join_images([image("P", ["b"] * 30), image("Q", ["a", "c"] * 9)], level="nucleus")
    assert classes == ("a", "b", "c")
    assert places.target.sum(axis=0).tolist() == [9, 30, 9]
    with pytest.raises(UsageError, match="expected labels of at least two classes, found a; label more"):
        join_images([image("P", ["a"] * 30)], level="nucleus")


def read(path, features, level="neighbourhood"):
    encoding = Encoding(features=features, device=torch.device("cpu"), batch_size=8)
    return read_labelled_images(path, encoding, level=level, on_progress=no_progress, cancelled=never_cancelled)


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(tmp_path / "i.png")
    pd.DataFrame({"x_px": [100, 200], "y_px": [100, 200], "A": [1, 0], "B": [0, 1]}).to_csv(tmp_path / "p.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("image,label\ni.png,p.csv\n", UsageError, "found no column labels"),
        ("image,labels,magnification\ni.png,p.csv,40\n", UsageError, "found magnification"),
        ("image,labels\n", UsageError, "found no rows"),
        ("image,labels\nj.png,p.csv\n", UsageError, "expected the image of a row of the dataset at .*j.png"),
        ("image,labels,mpp\ni.png,p.csv,\n", CalibrationError, "expected a pixel size, found none in i.png"),
        ("image,labels,mpp\ni.png,p.csv,fine\n", UsageError, "expected a number as mpp of i.png, found 'fine'"),
        ("image,labels,mpp\ni.png,p.csv,2\n", CalibrationError, "found 2 um; take another encoder, or a finer scan"),
    ],
)
def test_faulty_tables_say_what_is_wrong(folder, text, error, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(error, match=message):
        read(folder / "t.csv", NucleusFeatures(load_encoder("colour"), appearance=False, shape=False))


def test_places_without_outline_have_no_shape(folder):
    (folder / "t.csv").write_text("image,labels,mpp\ni.png,p.csv,1\n")
    with pytest.raises(UsageError, match="expected the outlines of nuclei for appearance and shape"):
        read(folder / "t.csv", NucleusFeatures(None, appearance=True, shape=False))


def test_a_table_becomes_images_with_features(folder):
    (folder / "t.csv").write_text("image,labels,mpp,patient,licence\ni.png,p.csv,1,P,CC0\n")
    (found,) = read(folder / "t.csv", NucleusFeatures(load_encoder("colour"), appearance=False, shape=False))
    assert found.features.shape == (2, 93)
    assert found.to_dict()["classes"] == {"A": 1.0, "B": 1.0}
    assert (found.patient, found.licence, found.source) == ("P", "CC0", "proportions")
    with pytest.raises(ValueError, match="expected an encoder, appearance or shape"):
        NucleusFeatures(None, appearance=False, shape=False)
