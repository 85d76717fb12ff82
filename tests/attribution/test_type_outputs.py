"""Cell types as targets: the logits of the model, and attributions of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimage_qupath.attribution import ablation, input_x_gradient
from stimage_qupath.attribution.per_nucleus import block_attribution
from stimage_qupath.attribution.question import Question
from stimage_qupath.attribution.type_outputs import SoftmaxLogits, TypeOutputs
from stimage_qupath.errors import UsageError
from stimage_qupath.models.cell_type import CellTypeEnsemble, SoftmaxHeads
from stimage_qupath.models.context import ContextEncoder

CLASSES = ("Immune", "Stroma", "Tumour")


def ensemble(width, temperature=2.0):
    rng = np.random.default_rng(0)
    heads = SoftmaxHeads(
        feature_mean=np.zeros(width, np.float32),
        feature_sd=np.full(width, 1.5, np.float32),
        weight=rng.normal(0, 0.3, (4, width, 3)).astype(np.float32),
        bias=rng.normal(size=(4, 3)).astype(np.float32),
        temperature=temperature,
    )
    return CellTypeEnsemble(CLASSES, heads)


def test_logits_are_those_of_the_model_beyond_its_limits_too():
    model = ensemble(5)
    features = np.random.default_rng(1).normal(0, 5, (20, 5)).astype(np.float32)
    found = SoftmaxLogits(model)(torch.from_numpy(features)).transpose(0, 1)
    np.testing.assert_allclose(found, model.logits(features), rtol=1e-5, atol=1e-6)
    outputs = TypeOutputs(SoftmaxLogits(model), "cell-type:Stroma")
    centred = model.logits(features) - model.logits(features).mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(outputs.of_arrays(features).T, centred[..., 1], rtol=1e-4, atol=1e-5)
    assert outputs.genes == ("Cell type: Stroma",)


def test_attributions_of_all_types_cancel(blobs, linear):
    """Centred logits add up to nothing; on a linear encoder ablation and gradient agree; members give an SD."""
    scene = blobs.scene
    logits = SoftmaxLogits(ensemble(2))
    found = {}
    for name in CLASSES:
        question = Question(
            encoder=linear, outputs=TypeOutputs(logits, f"cell-type:{name}"), device=torch.device("cpu")
        )
        sums = ablation.attribute(scene, blobs.filled, question)
        by_gradient = input_x_gradient.attribute(scene, blobs.filled, question)
        np.testing.assert_allclose(sums.sums.mean(axis=1), by_gradient.sums[:, 0], rtol=1e-3, atol=1e-3)
        found[name] = block_attribution(scene, scene.centres[[0] * scene.features], sums, question)
    assert found["Immune"].value.shape == (scene.features, 1)
    assert np.abs(found["Immune"].sd).max() > 0
    np.testing.assert_allclose(sum(one.value for one in found.values()), 0, atol=1e-4)


def test_a_type_by_the_default_encoder_is_one_kind_a_member(tissue):
    scene, filled = tissue
    encoder = ContextEncoder()
    outputs = TypeOutputs(SoftmaxLogits(ensemble(encoder.card.width)), "cell-type:Immune")
    question = Question(encoder=encoder, outputs=outputs, device=torch.device("cpu"))
    found = ablation.attribute(scene, filled, question).sums[:6].mean(axis=1)
    values = question.values(scene.image, scene.centres)
    pictures = (scene.without(np.arange(scene.features) == k, filled) for k in range(6))
    alone = [(scene.weights @ (values - question.values(p, scene.centres))).mean() for p in pictures]
    np.testing.assert_allclose(found, alone, rtol=0.1, atol=0.05 * np.abs(alone).max())


@pytest.mark.parametrize("target", ["cell-type:Nerve", "Immune", "log mean"])
def test_a_type_that_there_is_not(target):
    with pytest.raises(UsageError, match=rf"expected a target out of 'cell-type:Immune'.*found '{target}'"):
        TypeOutputs(SoftmaxLogits(ensemble(2)), target)


def test_what_needs_genes_says_so(linear):
    outputs = TypeOutputs(SoftmaxLogits(ensemble(2)), "cell-type:Immune")
    question = Question(encoder=linear, outputs=outputs, device=torch.device("cpu"))
    with pytest.raises(UsageError, match="expected genes to be explained here, found Cell type: Immune"):
        _ = question.gene_outputs
