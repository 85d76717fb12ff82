"""The registry: what its cards say agrees with the networks they describe, and wrong scales are refused."""

from __future__ import annotations

import json
import re

import pytest
import torch

from stimage_qupath import cli
from stimage_qupath.errors import CalibrationError, UnknownModelError
from stimage_qupath.models.encoder_cards import RegisteredEncoder, registered_encoders
from stimage_qupath.models.encoders import COLOUR, EncoderCard, card_fingerprint, encoder_names, load_encoder
from stimage_qupath.models.foundation import build_network
from stimage_qupath.models.recorded_encoder import load_recorded
from stimage_qupath.models.scale import scale_notes

REGISTRY = registered_encoders()

# Parameters as published: papers and pages (M), or the size of the file of float32 weights on the hub (MB / 4).
PUBLISHED_MILLION = {
    "h-optimus-0": 4540 / 4,
    "uni": 303,
    "uni2-h": 681,
    "virchow": 631,
    "virchow2": 631,
    "prov-gigapath": 1134.953984,
    "phikon": 86,
    "phikon-v2": 1210 / 4,
    "hibou-b": 343 / 4,
    "lunit-vits8": 86.7 / 4,
    "h0-mini": 86,
}
TOKENS = {"virchow": 257, "virchow2": 261, "uni": 197, "h-optimus-0": 261, "prov-gigapath": 197, "lunit-vits8": 785}


@pytest.mark.parametrize("name", REGISTRY)
def test_a_card_describes_its_network(name):
    entry = REGISTRY[name]
    with torch.device("meta"):  # no memory, no computation: shapes alone
        network = build_network(entry)
    if entry.family in ("conch", "conch-1.5"):
        assert network.ln_contrast.normalized_shape == (entry.width,)
    else:
        assert entry.width == network.num_features * (2 if entry.pooling == "class+mean" else 1)
    trunk = getattr(network, "trunk", network)
    if hasattr(trunk, "patch_embed"):
        assert entry.tile_px == entry.network.get("img_size", 224)
        assert trunk.patch_embed.grid_size[0] * trunk.patch_embed.patch_size[0] == entry.tile_px
    million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    if name in PUBLISHED_MILLION:
        assert million == pytest.approx(PUBLISHED_MILLION[name], rel=0.003, abs=0.5)
    if name in TOKENS:
        patches = trunk.patch_embed.num_patches
        assert patches + trunk.num_prefix_tokens == TOKENS[name]


def test_every_number_has_a_source_and_every_doubt_a_subject():
    for entry in REGISTRY.values():
        assert {"network", "normalisation", "mpp"} <= entry.sources.keys(), entry.name
        facts = {"network", "normalisation", "mpp", "pooling", "licence", "gated", "revision"}
        for doubt in entry.doubtful:
            assert set(re.split(r", ", doubt.split(":")[0])) <= facts, doubt
        assert entry.verified is not bool(entry.doubtful)
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)


def test_known_facts():
    assert {"h-optimus-0", "h-optimus-1", "h0-mini", "uni", "uni2-h", "virchow", "virchow2", "prov-gigapath"} <= set(
        REGISTRY
    )
    assert {"phikon", "phikon-v2", "conch", "conch-1.5", "ctranspath", "hibou-b", "hibou-l"} <= set(REGISTRY)
    assert {"lunit-vits8", "midnight"} <= set(REGISTRY)
    assert REGISTRY["ctranspath"].mpp == 1.0
    assert all(entry.tile_px * entry.mpp in (112, 224, pytest.approx(256, abs=0.02)) for entry in REGISTRY.values())
    assert REGISTRY["midnight"].mean == (0.5, 0.5, 0.5)


def test_nonsense_is_no_entry():
    facts = {field: getattr(REGISTRY["uni"], field) for field in RegisteredEncoder.__dataclass_fields__}
    for wrong in ({"family": "rnn"}, {"pooling": "max"}, {"mpp": 20.0}, {"std": (0.0, 1.0, 1.0)}, {"width": 0}):
        with pytest.raises(ValueError, match="expected the facts of an encoder"):
            RegisteredEncoder(**(facts | wrong))


def test_names():
    assert {COLOUR, *REGISTRY} <= set(encoder_names())
    assert len(set(encoder_names())) == len(encoder_names())
    with pytest.raises(
        UnknownModelError, match=r"expected an encoder out of .*colour, .* or 'timm:<model>', found 'uni3'"
    ):
        load_encoder("uni3")


def card(**changes):
    facts = {"name": "x", "source": "here", "licence": "none", "gated": False, "mpp": 0.5, "tile_px": 8, "width": 3}
    return EncoderCard(**(facts | changes))


def test_fingerprints_follow_what_features_depend_on():
    base = card_fingerprint(card())
    assert card_fingerprint(card(source="there", licence="MIT", gated=True, notes=("a",), revision="c")) == base
    for change in ({"mpp": 0.25}, {"mean": (0.5, 0, 0)}, {"precision": "bfloat16"}, {"weights_sha256": "a"}):
        assert card_fingerprint(card(**change)) != base
    assert card_fingerprint(card(), pooling="class") != base
    assert json.loads(json.dumps(card(notes=("a",)).to_dict()))["notes"] == ["a"]


def test_a_precision_that_no_device_has():
    with pytest.raises(ValueError, match="expected a precision out of float32, bfloat16, float16, found 'int8'"):
        card(precision="int8")


def test_a_slide_far_coarser_than_the_encoder_is_refused():
    assert scale_notes(card(), 0.25, what="s.svs") == ()
    assert scale_notes(card(), 0.51, what="s.svs") == ()
    (note,) = scale_notes(card(), 0.69, what="s.svs")
    assert note == "s.svs has pixels of 0.69 um, enlarged 1.38 times for x, which reads 0.5 um"
    assert len(scale_notes(card(), 0.75, what="s.svs")) == 1
    with pytest.raises(CalibrationError, match=r"expected s.svs at 0.75 um .* reads 0.5 um, found 0.76 um"):
        scale_notes(card(), 0.76, what="s.svs")


def test_a_model_of_another_scale_normalisation_or_weights_is_refused():
    record = load_encoder(COLOUR).card.to_dict()
    assert load_recorded(record).card.name == COLOUR
    assert load_recorded({"name": COLOUR}).card.name == COLOUR  # cards of the first version say less
    with pytest.raises(CalibrationError, match=r"452 px at 1 um for the encoder colour, found .* 452 px at 0.5 um"):
        load_recorded(record | {"mpp": 0.5})
    with pytest.raises(CalibrationError, match="found a model trained on 400 px at 1 um"):
        load_recorded(record | {"tile_px": 400})
    with pytest.raises(UnknownModelError, match="that the model was trained with, found another mean"):
        load_recorded(record | {"mean": [0.5, 0.5, 0.5]})
    with pytest.raises(UnknownModelError, match="found another weights_sha256"):
        load_recorded(record | {"weights_sha256": "0" * 64})


def test_the_list_of_encoders(capsys):
    assert cli.run(["encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "um/px", "tile", "px", "width", "gated", "here", "licence"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert set(rows) == set(encoder_names())
    assert rows["colour"][:5] == ["1", "452", "93", "no", "yes"]
    assert rows["virchow2"][:4] == ["0.5", "224", "2560", "yes"]
    assert cli.run(["encoders", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["phikon-v2"]["verified"] is True
    assert listed["colour"]["here"] is True
    assert listed["uni"]["sources"]["licence"] == "hub README"
