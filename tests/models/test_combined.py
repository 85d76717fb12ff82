"""Encoders side by side: each part sees what it would have seen alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stimage_qupath.errors import UnknownModelError, UsageError
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.combined import CombinedEncoder
from stimage_qupath.models.context import ContextEncoder
from stimage_qupath.models.encoders import EncoderCard, load_encoder
from stimage_qupath.models.recorded_encoder import encoder_record, load_recorded
from stimage_qupath.prediction.stream import encode_points
from stimage_qupath.results import never_cancelled
from stimage_qupath.slide.reader import open_slide

CPU = torch.device("cpu")


class Pixels:
    """The pixels of the window around each centre: what an encoder is shown."""

    def __init__(self, name, mpp, *, side=1, pads=False, align=1):
        self.side = side
        self.card = EncoderCard(
            name=name, source="test", licence="none", gated=False, mpp=mpp, tile_px=side, width=3 * side * side,
            pads_edges=pads, align_px=align,
        )  # fmt: skip

    def encode(self, image, centres, **_):
        corners = np.floor(centres - self.side / 2 + 0.5).astype(int)
        cut = [image[y : y + self.side, x : x + self.side] for x, y in corners]
        return np.array(cut, dtype=np.float32).reshape(len(centres), -1)


def run(encoder, image, centres):
    centres = np.asarray(centres, dtype=np.float64)
    return encoder.encode(image, centres, device=CPU, batch_size=4, cancelled=never_cancelled)


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-9, 9, smooth.shape), 0, 255).astype(np.uint8)


def slide_of(folder, name, image):
    Image.fromarray(image).save(folder / name, compress_level=1)
    return open_slide(folder / name)


POINTS = np.array([(0.5, 1.0), (5.25, 440.0), (251.0, 222.75), (333.0, 449.0), (599.5, 3.0)])


def test_features_at_one_scale_are_those_of_the_parts_alone_to_the_bit(tmp_path):
    with slide_of(tmp_path, "slide.png", noise(0, 450, 600)) as slide:
        both = encode_points(slide, 1.0, POINTS, load_encoder("colour+context"), device=CPU)
        alone = [encode_points(slide, 1.0, POINTS, one, device=CPU) for one in (ColourEncoder(), ContextEncoder())]
    np.testing.assert_array_equal(both, np.concatenate(alone, axis=1))


def test_a_coarser_part_sees_the_frame_that_it_would_have_been_given_alone(tmp_path):
    """The fine slide repeats each pixel of the coarse one, so that means over pairs are the coarse slide."""
    coarse = noise(1, 450, 600)
    fine = coarse.repeat(2, axis=0).repeat(2, axis=1)
    both = CombinedEncoder([ContextEncoder(), Pixels("p", 0.5, side=4)])
    inner = POINTS[2:4] - 10
    with slide_of(tmp_path, "coarse.png", coarse) as one, slide_of(tmp_path, "fine.png", fine) as two:
        alone = encode_points(one, 1.0, inner, ContextEncoder(), device=CPU)
        found = encode_points(two, 0.5, 2 * inner, both, device=CPU)
    np.testing.assert_array_equal(found[:, :768], alone)
    corners = np.floor(2 * inner - 2 + 0.5).astype(int)
    expected = [fine[y : y + 4, x : x + 4].ravel() for x, y in corners]
    np.testing.assert_array_equal(found[:, 768:], expected)


def test_a_pixel_of_another_scale_is_the_mean_of_the_area_that_it_covers():
    image = noise(2, 12, 12)
    both = CombinedEncoder([Pixels("fine", 1.0), Pixels("coarse", 1.5)])
    found = run(both, image, [(6.5, 4.5)])[0]
    np.testing.assert_array_equal(found[:3], image[4, 6])
    # Coarse pixel 4 covers columns 6 to 7.5, coarse pixel 3 covers rows 4.5 to 6.
    across = (image.astype(float)[:, 6] + 0.5 * image[:, 7]) / 1.5
    np.testing.assert_array_equal(found[3:], np.rint((0.5 * across[4] + across[5]) / 1.5))


def test_a_part_that_pads_sees_white_beyond_the_slide_beside_one_that_clips(tmp_path):
    image = noise(3, 60, 80)
    pads, clips = Pixels("pads", 1.0, side=16, pads=True), Pixels("clips", 1.0)
    points = np.array([(2.0, 3.0), (40.0, 30.0), (79.0, 58.0)])
    with slide_of(tmp_path, "slide.png", image) as slide:
        found = encode_points(slide, 1.0, points, CombinedEncoder([clips, pads]), device=CPU)
    framed = np.full((160, 180, 3), 255, np.uint8)
    framed[50:110, 50:130] = image
    for (x, y), row in zip(points.astype(int), found, strict=True):
        np.testing.assert_array_equal(row[:3], image[y, x])
        np.testing.assert_array_equal(row[3:], framed[y + 42 : y + 58, x + 42 : x + 58].ravel())


def test_the_card_says_what_all_parts_need():
    both = CombinedEncoder([Pixels("a", 0.5, side=224, pads=True), Pixels("b", 1.0, side=720, align=16)])
    card = both.card
    assert (card.name, card.mpp, card.align_px, card.pads_edges) == ("a+b", 0.5, 32, False)
    assert card.width == 3 * (224**2 + 720**2)
    assert card.tile_um >= 720
    assert [part["name"] for part in card.to_dict()["parts"]] == ["a", "b"]
    assert "parts" not in ColourEncoder().card.to_dict()
    assert run(both, noise(4, 20, 20), np.empty((0, 2))).shape == (0, card.width)


def test_what_was_learnt_on_and_what_features_depend_on_is_that_of_all_parts():
    one, other = Pixels("a", 1.0), Pixels("b", 1.0)
    one.images_seen, other.images_seen = frozenset({"x"}), frozenset({"y"})
    assert CombinedEncoder([one, other]).images_seen == {"x", "y"}
    pair, reverse = load_encoder("context+colour"), load_encoder("colour+context")
    assert pair.fingerprint() == load_encoder("context+colour").fingerprint()
    assert len({pair.fingerprint(), reverse.fingerprint(), ContextEncoder().fingerprint()}) == 3
    nameless = CombinedEncoder([one, other])
    assert nameless.fingerprint() != nameless.fingerprint()


def test_a_record_gives_the_same_encoder_and_refuses_a_changed_part():
    encoder = load_encoder("context+colour")
    record = encoder_record(encoder, None)
    assert load_recorded(record).card == encoder.card
    changed = record | {"parts": [record["parts"][0] | {"weights_sha256": "0" * 64}, record["parts"][1]]}
    with pytest.raises(UnknownModelError, match="found another weights_sha256"):
        load_recorded(changed)


def test_a_checkpoint_belongs_to_the_one_part_that_takes_it(tmp_path):
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    encoder = load_encoder("timm:test_vit+colour", weights=str(path))
    record = encoder_record(encoder, str(path))
    assert [part.get("weights") for part in record["parts"]] == [str(path), None]
    assert load_recorded(record).card == encoder.card
    with pytest.raises(UsageError, match="expected encoder weights only where one of several encoders takes them"):
        load_encoder("context+colour", weights=str(path))


def test_what_cannot_stand_side_by_side_is_refused():
    with pytest.raises(UsageError, match="at least two different encoders, found colour\\+colour"):
        load_encoder("colour+colour")
    with pytest.raises(UnknownModelError, match="expected an encoder out of"):
        load_encoder("colour+")
    with pytest.raises(UsageError, match=r"pixel sizes in a simple ratio, found 0\.5, 0\.88 um"):
        CombinedEncoder([Pixels("a", 0.5), Pixels("b", 0.88, align=16)])
