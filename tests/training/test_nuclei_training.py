"""Training of a nucleus network: targets by hand, views, scale, splits, and a tiny network that learns discs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import ndimage
from stardist.geometry import star_dist

from stimage_qupath.errors import CancelledError, UsageError
from stimage_qupath.nuclei.stardist_network import StarDistConfig
from stimage_qupath.training.nuclei_augmentation import NO_AUGMENTATION, AugmentationSettings, Stain, view
from stimage_qupath.training.nuclei_dataset import NucleiImage, read_nuclei_dataset, resampled, split_images
from stimage_qupath.training.nuclei_fit import NucleiFitSettings, fit_nuclei, new_network, stardist_loss
from stimage_qupath.training.nuclei_labels import read_nuclei_labels
from stimage_qupath.training.nuclei_sampling import NucleiBatch, NucleiSampler
from stimage_qupath.training.nuclei_score import average_precision, best_thresholds, matched_counts
from stimage_qupath.training.nuclei_targets import nuclei_targets

pytestmark = pytest.mark.flow

CPU = torch.device("cpu")
TINY = StarDistConfig(
    n_rays=16, n_channel_in=3, grid=(2, 2), unet_n_depth=1, unet_n_filter_base=8, net_conv_after_unet=16
)
FAST = NucleiFitSettings(
    epochs=3, steps=30, batch_size=4, patch_px=64, learning_rate=1e-2, augmentation=NO_AUGMENTATION
)


def discs(seed, *, side=128, count=14):
    """Paint purple discs of radius 6-9 px that do not touch, on pink."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    rows, cols = np.mgrid[:side, :side]
    for _ in range(20 * count):
        (row, col), radius = rng.uniform(0, side, 2), rng.uniform(6, 9)
        distance = np.hypot(rows - row, cols - col)
        if labels.max() < count and not labels[distance < radius + 3].any():
            labels[distance < radius] = labels.max() + 1
    rgb = np.where((labels > 0)[..., None], (100, 60, 150), (230, 180, 210)) + rng.integers(-15, 15, (side, side, 3))
    return NucleiImage(f"discs{seed}", rgb.astype(np.uint8), labels, licence="CC0")


@pytest.fixture(scope="module")
def images():
    return [discs(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def fitted(images):
    return fit_nuclei(new_network(TINY, seed=0), images[:4], images[4:], settings=FAST, device=CPU)


def test_targets_are_stardists_own():
    labels = discs(1).labels
    targets = nuclei_targets(labels, n_rays=8, grid=(2, 2))
    np.testing.assert_array_equal(targets.dist, star_dist(labels, n_rays=8, mode="cpp")[::2, ::2])
    assert targets.known.all()
    assert ((targets.prob > 0) == (labels[::2, ::2] > 0)).all()


def test_targets_of_a_rectangle_by_hand():
    """A nucleus of 5 rows and 9 columns: its middle has probability 1 and reaches 2.5 up and 4.5 to the side."""
    labels = np.zeros((20, 20), np.int32)
    labels[6:11, 4:13] = 3
    targets = nuclei_targets(labels, n_rays=4, grid=(2, 2))
    assert targets.prob[4, 4] == pytest.approx(1)  # row 8, column 8
    assert targets.prob[3, 4] == pytest.approx(1 / 3)  # the edge row: 1 px from the outside, the middle 3
    assert sorted(targets.dist[4, 4]) == pytest.approx([2.5, 2.5, 4.5, 4.5], abs=0.51)
    assert not targets.dist[0, 0].any()


def test_a_margin_measures_nuclei_that_the_border_cuts():
    labels = discs(2).labels
    whole = nuclei_targets(labels, n_rays=8, grid=(2, 2))
    inner = nuclei_targets(labels, n_rays=8, grid=(2, 2), margin=20)
    np.testing.assert_array_equal(inner.dist, whole.dist[10:-10, 10:-10])
    np.testing.assert_array_equal(inner.prob, whole.prob[10:-10, 10:-10])


def test_unknown_pixels_are_neither_nucleus_nor_background():
    labels = discs(3).labels.copy()
    labels[:40] = -1
    targets = nuclei_targets(labels, n_rays=8, grid=(2, 2))
    assert not targets.known[:20].any()
    assert targets.known[20:].all()
    assert not targets.prob[:20].any()
    everything = nuclei_targets(np.ones((8, 8), np.int32), n_rays=8, grid=(2, 2))
    assert not everything.known.any()  # a nucleus without an edge in sight teaches nothing


def test_unknown_pixels_do_not_enter_the_loss():
    network = new_network(TINY, seed=0)
    batch = next(NucleiSampler([discs(0)], TINY, 64, NO_AUGMENTATION, 0).batches(1, size=2))
    known = torch.zeros_like(batch.known)
    known[:, :8] = True
    changed = batch.prob.clone()
    changed[:, 8:] = 0.7
    network.requires_grad_(requires_grad=False)
    before, after, seen = (
        float(stardist_loss(network, NucleiBatch(batch.images, prob, batch.dist, where)))
        for prob, where in ((batch.prob, known), (changed, known), (changed, batch.known))
    )
    assert before == pytest.approx(after, rel=1e-6)
    assert seen != pytest.approx(before, rel=1e-2)


def test_loss_of_a_network_that_says_nothing_is_arithmetic():
    """Log odds 0 and distance 0: log 2, and 0.2 x the mean distance, weighted by the probability."""
    network = new_network(TINY, seed=0).requires_grad_(requires_grad=False)
    for layer in (network.prob, network.dist):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    batch = next(NucleiSampler([discs(0)], TINY, 64, NO_AUGMENTATION, 0).batches(1, size=2))
    distance = (batch.dist.mean(dim=-1) * batch.prob).sum() / batch.prob.sum()
    assert float(stardist_loss(network, batch)) == pytest.approx(math.log(2) + 0.2 * float(distance), rel=1e-5)


def test_a_view_without_augmentation_is_a_turned_or_mirrored_cut():
    image = discs(4)
    rgb, labels = view(
        image.rgb,
        image.labels,
        centre=(63.5, 63.5),
        size=64,
        margin=8,
        rng=np.random.default_rng(3),
        settings=NO_AUGMENTATION,
    )
    cut, cut_labels = image.rgb[32:96, 32:96], image.labels[24:104, 24:104]
    turned = [(np.rot90(m(cut), k), np.rot90(m(cut_labels), k)) for m in (np.asarray, np.fliplr) for k in range(4)]
    same = [np.abs(rgb - a).max() < 0.1 and (labels == b).all() for a, b in turned]
    assert sum(same) == 1


def test_a_view_beyond_the_image_is_mirrored_and_unknown():
    image = discs(5)
    settings = AugmentationSettings(scale=1.3)
    rgb, labels = view(
        image.rgb, image.labels, centre=(0, 0), size=64, margin=0, rng=np.random.default_rng(0), settings=settings
    )
    assert rgb.min() >= image.rgb.min() - 1e-3
    assert 0.65 < (labels == -1).mean() < 0.85  # about a quarter lies inside


def test_a_view_moves_image_and_labels_together():
    image = discs(6)
    rng = np.random.default_rng(1)
    rgb, labels = view(
        image.rgb, image.labels, centre=(60, 60), size=96, margin=0, rng=rng, settings=AugmentationSettings()
    )
    dark = rgb[..., 1] < 120
    known = labels >= 0
    assert (dark == (labels > 0))[known].mean() > 0.97


def test_stain_changes_amounts_and_nothing_else_without_settings():
    rgb = np.random.default_rng(0).uniform(0, 255, (20, 3)).astype(np.float32)
    np.testing.assert_allclose(Stain().apply(rgb), rgb, atol=1e-3)
    still = Stain.draw(np.random.default_rng(0), NO_AUGMENTATION)
    np.testing.assert_allclose(still.apply(rgb), rgb, atol=1e-2)
    double = Stain(mix=2 * np.eye(3)).apply(np.array([[127, 63, 255]], np.float32))
    np.testing.assert_allclose(double, [[63, 15, 255]], atol=1e-3)  # half the light twice is a quarter


def test_views_do_not_depend_on_threads_and_batches(images):
    def drawn(threads, size):
        sampler = NucleiSampler(images, TINY, 64, AugmentationSettings(), seed=7)
        return torch.cat([batch.images for batch in sampler.batches(8 // size, size=size, threads=threads)])

    torch.testing.assert_close(drawn(1, 4), drawn(3, 2), rtol=0, atol=0)


def test_discs_are_learned(fitted, images):
    assert fitted.losses[-1] < 0.7 * fitted.losses[0]
    assert fitted.validation_ap > 0.8
    assert average_precision(fitted.network, [discs(77)], device=CPU) > 0.8


def test_same_seed_same_weights(images):
    def weights(seed, threads):
        changed = NucleiFitSettings(epochs=1, steps=3, batch_size=2, patch_px=32, seed=seed, threads=threads)
        fit = fit_nuclei(new_network(TINY, seed=seed), images[:2], images[4:], settings=changed, device=CPU)
        return torch.cat([p.flatten() for p in fit.network.parameters()])

    torch.testing.assert_close(weights(0, 1), weights(0, 2), rtol=0, atol=0)
    assert not torch.equal(weights(0, 1), weights(1, 1))


def test_training_does_not_change_the_network_it_begins_with(images):
    network = new_network(TINY, seed=0)
    before = network.down[0][0].conv.weight.clone()
    settings = NucleiFitSettings(epochs=1, steps=2, batch_size=2, patch_px=32)
    fit = fit_nuclei(network, images[:2], images[4:], settings=settings, device=CPU)
    torch.testing.assert_close(network.down[0][0].conv.weight, before)
    assert not torch.equal(fit.network.down[0][0].conv.weight, before)


def test_training_stops_when_asked(images):
    asked = iter([False, False, True])
    with pytest.raises(CancelledError):
        fit_nuclei(
            new_network(TINY, seed=0),
            images[:1],
            images[4:],
            settings=NucleiFitSettings(epochs=2, steps=5, batch_size=1, patch_px=32),
            device=CPU,
            cancelled=lambda: next(asked),
        )


def test_thresholds_are_those_of_the_highest_score(fitted, images):
    thresholds, score = best_thresholds(fitted.network, images[4:], device=CPU)
    assert (thresholds, score) == (fitted.thresholds, fitted.validation_ap)
    assert score >= average_precision(fitted.network, images[4:], device=CPU)


def test_matches_counted_by_hand():
    truth = np.array([[1, 1, 1, 0, 2, 2, 0, -1, -1, -1]], np.int32)
    found = np.array([[4, 4, 0, 0, 0, 0, 5, 6, 6, 0]], np.int32)
    assert matched_counts(truth, found) == (1, 1, 1)  # 1 is 4; 2 is missed; 5 is nothing; 6 nobody knows


def test_labels_at_half_the_pixel_size():
    labels = np.repeat(np.repeat(np.arange(6, dtype=np.int32).reshape(2, 3), 4, 0), 4, 1)
    np.testing.assert_array_equal(
        resampled(labels, (4, 6), downsample=2), np.repeat(np.repeat(np.arange(6).reshape(2, 3), 2, 0), 2, 1)
    )
    np.testing.assert_array_equal(resampled(labels, (16, 24), downsample=0.5)[::2, ::2], labels)


def write_table(folder, rows, header="image,labels,mpp,licence"):
    path = folder / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_image(folder, image, name, *, suffix=".tif"):
    Image.fromarray(image.rgb).save(folder / f"{name}.png")
    path = folder / f"{name}_labels{suffix}"
    if suffix == ".npy":
        np.save(path, image.labels)
    elif suffix == ".png":
        Image.fromarray(image.labels.astype(np.uint16)).save(path)
    else:
        tifffile.imwrite(path, image.labels)
    return path.name


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_a_dataset_comes_at_half_a_micrometre(tmp_path, suffix):
    image = discs(0)
    labels = write_image(tmp_path, image, "a", suffix=suffix)
    (read,) = read_nuclei_dataset(write_table(tmp_path, [f"a.png,{labels},0.25,CC0"]), mpp=0.5)
    assert read.rgb.shape == (64, 64, 3)
    assert read.nuclei == image.nuclei
    assert (read.labels > 0).mean() == pytest.approx((image.labels > 0).mean(), abs=0.01)
    inside = ndimage.binary_erosion(read.labels > 0)  # the edge itself is mixed
    assert read.rgb[inside].mean(axis=0) == pytest.approx((100, 60, 150), abs=10)
    assert read.licence == "CC0"


def test_outlines_of_qupath_become_labels(tmp_path):
    square = [[[2, 1], [5, 1], [5, 3], [2, 3], [2, 1]]]
    path = tmp_path / "cells.geojson"
    path.write_text(
        '{"type":"FeatureCollection","features":[{"type":"Feature","geometry":{"type":"Polygon","coordinates":'
        f'{square}}},"properties":{{"objectType":"detection"}}}}]}}',
        encoding="utf-8",
    )
    labels = read_nuclei_labels(path, shape=(5, 7))
    assert np.argwhere(labels).tolist() == [[i, j] for i in (1, 2) for j in (2, 3, 4)]


def test_large_and_negative_labels(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, -5, 2**40, 7]]))
    assert read_nuclei_labels(tmp_path / "a.npy", shape=(1, 4)).tolist() == [[0, -1, 2, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,a_labels.tif,0.25,CC0", "b.png,a_labels.tif,0.25,CC0"], r"expected the image of a row .*b\.png"),
        (["a.png,other.tif,0.25,CC0"], r"expected the labels of a row .*other\.tif"),
        (["a.png,small.npy,0.25,CC0"], r"expected labels of 128 x 128 px, as the image, in small\.npy, found 5 x 4"),
        (["a.png,a.txt,0.25,CC0"], r"expected labels in a file that ends in \.tif"),
        (["a.png,empty.npy,0.25,CC0"], "expected labelled nuclei in the images"),
        (["a.png,a_labels.tif,half,CC0"], "expected numbers as mpp, weight, grow_um, restain of a.png, found 'half'"),
        ([], "and at least one row .* found no rows"),
    ],
)
def test_a_faulty_table_is_one_sentence(tmp_path, rows, message):
    write_image(tmp_path, discs(0), "a")
    np.save(tmp_path / "small.npy", np.ones((4, 5), int))
    np.save(tmp_path / "empty.npy", np.zeros((128, 128), int))
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(UsageError, match=message):
        read_nuclei_dataset(write_table(tmp_path, rows), mpp=0.5)


def test_outlines_grow_and_missing_ones_are_marked(tmp_path):
    image = discs(0)
    labels = write_image(tmp_path, image, "a")
    header = "image,labels,mpp,licence,grow_um,restain,incomplete"
    rows = [f"a.png,{labels},0.5,CC0,,,", f"a.png,{labels},0.5,CC0,1,0.5,yes", "a.png,,0.5,CC0,,,"]
    plain, grown, bare = read_nuclei_dataset(write_table(tmp_path, rows, header), mpp=0.5)
    assert np.array_equal(plain.labels > 0, image.labels > 0)
    reached = ndimage.distance_transform_edt(image.labels == 0) <= 2  # 1 um
    assert np.array_equal(grown.labels > 0, reached)
    assert np.array_equal(grown.labels[image.labels > 0], plain.labels[image.labels > 0])
    assert [i.is_incomplete for i in (plain, grown, bare)] == [False, True, True]
    assert [i.restain for i in (plain, grown, bare)] == [0, 0.5, 0]
    assert not bare.labels.any()


def test_a_table_without_its_columns(tmp_path):
    with pytest.raises(UsageError, match="found no column licence"):
        read_nuclei_dataset(write_table(tmp_path, ["a,b,1"], header="image,labels,mpp"), mpp=0.5)
    with pytest.raises(UsageError, match="expected a dataset table at"):
        read_nuclei_dataset(tmp_path / "none.csv", mpp=0.5)


def test_split_by_chance_by_column_and_of_one_image(images):
    training, validation = split_images(images, validation_fraction=0.4, seed=1)
    assert (len(training), len(validation)) == (3, 2)
    assert {i.name for i in training} | {i.name for i in validation} == {i.name for i in images}
    again = split_images(images, validation_fraction=0.4, seed=1)
    assert [i.name for i in again[1]] == [i.name for i in validation]
    marked = [NucleiImage("v", i.rgb, i.labels, split="validation") if n == 2 else i for n, i in enumerate(images)]
    training, validation = split_images(marked, validation_fraction=0.4, seed=1)
    assert [i.name for i in validation] == ["v"]
    assert len(training) == 4
    upper, lower = split_images(images[:1], validation_fraction=0.25, seed=0)
    assert (len(upper[0].labels), len(lower[0].labels)) == (96, 32)
    shared = np.intersect1d(upper[0].labels, lower[0].labels)
    assert shared[shared > 0].size == 0


def test_a_split_without_nuclei_is_refused(images):
    empty = NucleiImage("empty", images[0].rgb, np.zeros_like(images[0].labels), split="validation")
    with pytest.raises(UsageError, match="expected labelled nuclei among the images for validation"):
        split_images([images[0], empty], validation_fraction=0.5, seed=0)


def test_nonsense_settings_are_refused():
    with pytest.raises(ValueError, match="expected scale of at least 1"):
        AugmentationSettings(scale=0.5)
    with pytest.raises(ValueError, match="expected positive numbers for training"):
        NucleiFitSettings(epochs=0)
    with pytest.raises(ValueError, match="views of a multiple of"):
        NucleiSampler([discs(0)], TINY, 63, NO_AUGMENTATION, 0)
    with pytest.raises(UsageError, match="expected labels of the size of a"):
        NucleiImage("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.int32))
    with pytest.raises(UsageError, match="expected split train, validation or empty"):
        NucleiImage("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.int32), split="test")
