"""One class against the rest, in annotations and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stimage_qupath.validation.annotations import (
    Labelled,
    Separator,
    codes_of,
    false_discovery,
    nuclear_density,
    quartiles,
)


def grid(annotations=24, per_side=6, spacing_um=20.0):
    """Return nuclei in square annotations side by side, (nucleus, 2) um and the annotation of each."""
    column, row = np.meshgrid(np.arange(per_side), np.arange(per_side))
    inside = np.stack([column.ravel(), row.ravel()], axis=1) * spacing_um
    corners = np.stack([np.arange(annotations) % 6, np.arange(annotations) // 6], axis=1) * 150.0
    positions = (corners[:, None] + inside[None]).reshape(-1, 2)
    return positions, np.repeat(np.arange(annotations), per_side**2)


def labelled(codes, annotation, positions, classes=("Stroma", "Tumor")):
    return Labelled(classes, np.asarray(codes, dtype=np.intp), annotation.astype(np.intp), positions)


def test_a_shuffled_annotation_gives_a_half_within_its_interval():
    positions, annotation = grid()
    covered = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        of_annotation = rng.permuted(np.arange(24) % 2)
        values = rng.normal(size=24)[annotation] + rng.normal(size=len(annotation))
        separator = Separator(labelled(of_annotation[annotation], annotation, positions), block_um=150, replicates=400)
        found = separator.separations(values)["Tumor"]
        covered += found.auroc.ci[0] <= 0.5 <= found.auroc.ci[1]
        assert found.has_interval
    assert covered >= 16  # of 20 intervals of 95 %, over 12 units a side


def test_what_follows_the_class_is_found_and_both_classes_mirror_each_other():
    positions, annotation = grid()
    code = annotation % 2
    values = code + np.random.default_rng(0).normal(size=len(code))
    found = Separator(labelled(code, annotation, positions), block_um=150).separations(values)
    tumor, stroma = found["Tumor"], found["Stroma"]
    assert tumor.auroc.value == pytest.approx(roc_auc_score(code, values), abs=1e-12)
    assert tumor.auroc.value + stroma.auroc.value == pytest.approx(1, abs=1e-12)
    assert tumor.auroc.ci[0] > 0.5
    assert tumor.p == 1 / 1000
    n = len(code) // 2
    assert tumor.u == pytest.approx(tumor.auroc.value * n * n)


def test_few_annotations_are_drawn_in_blocks_and_few_blocks_are_not_tested():
    positions, annotation = grid(annotations=8)
    code = (annotation < 4).astype(int)
    few = labelled(code, annotation, positions)
    assert few.unit_kind(1) == "spatial blocks"
    assert Separator(few, block_um=150).units_of(1)[0] == 4  # one block an annotation
    assert Separator(few, block_um=75).units_of(1)[0] > 4
    found = Separator(few, block_um=150).separations(code * 1.0)["Tumor"]
    assert found.p is None  # 8 blocks of at least 20
    assert not found.has_interval
    assert found.to_dict() == {"value": 1.0, "ci": None}
    many = labelled(annotation % 2, annotation, positions).take(annotation < 8)
    assert many.annotations_of(0) == 4
    five = labelled((annotation < 3).astype(int), annotation, positions)
    assert five.unit_kind(0) == "annotations"
    assert Separator(five).units_of(0)[0] == 5


def test_nuclei_outside_count_as_rest():
    positions, annotation = grid(annotations=2)
    code = np.where(annotation == 0, 0, -1)
    outside = labelled(code, np.where(annotation == 0, 0, -1), positions, classes=("Tumor",))
    assert Separator(outside).separations((annotation == 0) * 1.0)["Tumor"].auroc.value == 1
    kept = outside.keep(np.arange(72) >= 30)
    assert (kept.code == 0).sum() == (kept.annotation == 0).sum() == 6
    alone = outside.take(code == 0)
    assert Separator(alone).separations(np.zeros(36)) == {}


def test_labels_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"expected 3 annotations and positions of labelled nuclei, found 2"):
        labelled([0, 0, 1], np.zeros(2), np.zeros((3, 2)))


def test_false_discovery_by_hand_leaves_out_what_was_not_tested():
    p = {("a", "x"): 0.01, ("a", "y"): 0.04, ("b", "x"): None, ("b", "y"): 0.03}
    q = false_discovery(p)  # sorted .01 .03 .04: times 3/1, 3/2, 3/3, then the smallest of what follows
    assert q["b", "x"] is None
    assert [q["a", "x"], q["b", "y"], q["a", "y"]] == pytest.approx([0.03, 0.04, 0.04])
    assert false_discovery({("a", "x"): None}) == {("a", "x"): None}


def test_density_quartiles_and_codes_by_hand():
    positions = np.array([[0.0, 0], [30, 0], [60, 0], [500, 0]])
    assert nuclear_density(positions, radius_um=40).tolist() == [1, 2, 1, 0]
    assert quartiles(np.array([1.0, 2, 3, 4, 10])) == {"n": 5, "mean": 4, "median": 3, "q1": 2, "q3": 4}
    assert quartiles(np.array([])) == {"n": 0}
    assert codes_of(["b", None, "a", "z"], ["a", "b"]).tolist() == [1, -1, 0, -1]
