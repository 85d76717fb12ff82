"""Features on disk: found again, told apart, computed anew when damaged, written by many at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from stimage_qupath.errors import CalibrationError
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.models.encoders import EncoderCard, card_fingerprint
from stimage_qupath.prediction import cache as module
from stimage_qupath.prediction.cache import FeatureCache, choose_cache, default_folder, feature_key, file_sha256
from stimage_qupath.results import never_cancelled, no_progress
from stimage_qupath.spots.section import Section
from stimage_qupath.training.dataset import encode_sections

CPU = torch.device("cpu")
POINTS = np.array([[100.0, 120.0], [300.5, 200.25], [410.0, 350.0]])


class Counting:
    """An encoder that returns its number and counts how often it is asked."""

    def __init__(self, number=1.0, *, mpp=1.0, weights="a"):
        self.number, self.asked = number, 0
        self.card = EncoderCard("counting", "here", "none", False, mpp, 8, 2, weights_sha256=weights)

    def fingerprint(self):
        return card_fingerprint(self.card)

    def encode(self, image, centres, *, device, batch_size, cancelled):
        self.asked += 1
        return np.column_stack([np.full(len(centres), self.number), centres[:, 0]]).astype(np.float32)


class Anonymous(Counting):
    """An encoder that does not say what it depends on."""

    fingerprint = None


def section(slide, points=POINTS, name="s"):
    counts = sparse.csr_matrix(np.ones((len(points), 1)))
    return Section(name, "p", slide.path, None, ("G",), counts, points)


def encode(sections, encoder, cache):
    found = encode_sections(
        sections,
        encoder,
        device=CPU,
        batch_size=4,
        threads=1,
        on_progress=no_progress,
        cancelled=never_cancelled,
        cache=cache,
    )
    return [one.features for one in found]


def kept(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture(scope="module")
def slide(formula_slide):
    return formula_slide(mpp=0.5)


def test_the_second_time_the_encoder_is_not_asked(slide, tmp_path):
    cache, encoder = FeatureCache(tmp_path / "cache"), Counting()
    (first,) = encode([section(slide)], encoder, cache)
    asked = encoder.asked
    (second,) = encode([section(slide, name="another name")], encoder, cache)
    assert asked > 0
    assert encoder.asked == asked
    np.testing.assert_array_equal(first, second)
    assert len(kept(cache.folder)) == 1
    assert not list(cache.folder.glob("*.partial"))


def test_what_features_depend_on_tells_them_apart(slide, formula_slide, tmp_path):
    cache, encoder = FeatureCache(tmp_path / "cache"), Counting()
    encode([section(slide)], encoder, cache)
    asked = encoder.asked
    changes = [
        [section(slide, POINTS[::-1])],
        [section(slide, POINTS + 1e-9)],
        [section(slide, POINTS[:2])],
        [section(formula_slide(mpp=0.5, compression="deflate"))],
        [section(formula_slide(mpp=0.4))],
    ]
    for number, changed in enumerate(changes, start=1):
        encode(changed, encoder, cache)
        assert encoder.asked == asked + number
    other = Counting(2.0, weights="b")
    (features,) = encode([section(slide)], other, cache)
    assert other.asked == 1
    np.testing.assert_array_equal(features[:, 0], 2.0)
    assert len(kept(cache.folder)) == 2 + len(changes)


def test_the_version_of_the_package_is_part_of_the_key(monkeypatch):
    facts = {"slide_sha256": "s", "mpp": 0.5, "points_px": POINTS}
    before = feature_key("e", **facts)
    assert feature_key("e", **(facts | {"mpp": np.float64(0.5)})) == before
    monkeypatch.setattr(module, "__version__", "999")
    assert feature_key("e", **facts) != before


def test_without_a_cache_or_a_fingerprint_features_are_computed(slide, tmp_path):
    silent, encoder = Anonymous(), Counting()
    cache = FeatureCache(tmp_path / "cache")
    for _ in range(2):
        encode([section(slide)], encoder, None)
        encode([section(slide)], silent, cache)
    assert (encoder.asked, silent.asked) == (2, 2)
    assert not cache.folder.exists()


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b"nonsense" * 20),
        damage_flip,
    ],
    ids=["empty", "cut", "nonsense", "one bit"],
)
def test_a_damaged_file_is_computed_again_and_mended(slide, tmp_path, damage):
    cache, encoder = FeatureCache(tmp_path / "cache"), Counting()
    (first,) = encode([section(slide)], encoder, cache)
    (path,) = kept(cache.folder)
    damage(path)
    for _ in range(2):
        (again,) = encode([section(slide)], encoder, cache)
        np.testing.assert_array_equal(first, again)
    assert encoder.asked == 2


def test_the_colour_encoder_is_kept_too(slide, tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    (first,) = encode([section(slide)], ColourEncoder(), cache)
    (path,) = kept(cache.folder)
    before = path.stat().st_ino
    (second,) = encode([section(slide)], ColourEncoder(), cache)
    np.testing.assert_array_equal(first, second)
    assert path.stat().st_ino == before


WRITE_MANY = """
import sys
from pathlib import Path
import numpy as np
from stimage_qupath.models.colour import ColourEncoder
from stimage_qupath.prediction.cache import FeatureCache

cache, encoder = FeatureCache(Path(sys.argv[1])), ColourEncoder()
width = encoder.card.width
for number in np.random.default_rng(int(sys.argv[2])).permutation(3).tolist() * 5:
    values = np.full((400, width), number, dtype=np.float32)
    found = cache.features(
        encoder, slide_sha256=f"s{number}", mpp=0.5, points_px=np.zeros((400, 2)), compute=lambda v=values: v
    )
    assert (found == number).all()
"""


def test_many_processes_share_a_folder(tmp_path):
    """Both ask for the same three sets of features, each in an order of its own."""
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WRITE_MANY, str(folder)]
    running = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE) for seed in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 2
    assert len(kept(folder)) == 3
    assert not list(folder.glob("*.partial"))


def keep(cache, slide_sha256):
    values = np.zeros((1000, 2), dtype=np.float32)
    computed = []

    def compute():
        computed.append(slide_sha256)
        return values

    cache.features(Counting(), slide_sha256=slide_sha256, mpp=0.5, points_px=np.zeros((1000, 2)), compute=compute)
    return bool(computed)


def age(cache):
    """Let a second pass: file times of some systems are coarse."""
    for path in kept(cache.folder):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))


def test_the_least_recently_used_go_first(tmp_path):
    cache = FeatureCache(tmp_path / "cache", limit_bytes=3 * 8400)  # three of 8,000 bytes and a header each
    for name in ("a", "b", "c"):
        assert keep(cache, name)
        age(cache)
    assert not keep(cache, "a")  # used again: now b is the oldest
    age(cache)
    assert keep(cache, "d")
    assert len(kept(cache.folder)) == 3
    age(cache)
    assert not keep(cache, "a")
    assert keep(cache, "b")


def test_a_set_larger_than_the_limit_is_still_served(tmp_path):
    cache = FeatureCache(tmp_path / "cache", limit_bytes=10)
    assert keep(cache, "a")
    assert not keep(cache, "a")
    assert keep(cache, "b")
    assert len(kept(cache.folder)) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user who may be refused")
def test_a_folder_that_may_only_be_read_serves(tmp_path, caplog):
    cache = FeatureCache(tmp_path / "cache")
    keep(cache, "a")
    cache.folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert not keep(cache, "a")
    assert keep(cache, "b")
    assert "features are not kept in" in caplog.text


def test_a_folder_that_cannot_be_made_costs_only_the_file(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = FeatureCache(tmp_path / "file" / "cache")
    assert keep(cache, "a")
    assert keep(cache, "a")
    assert "features are not kept in" in caplog.text


def test_the_hash_of_a_large_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE_FILE_BYTES", 10)
    monkeypatch.setattr(module, "SAMPLE_BYTES", 4)
    hashed = []
    monkeypatch.setattr(module, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    cache, path = FeatureCache(tmp_path / "cache"), tmp_path / "slide.svs"
    path.write_bytes(bytes(range(100)))
    expected = file_sha256(path)
    assert [cache.image_sha256(path) for _ in range(3)] == [expected] * 3
    assert len(hashed) == 1
    (note,) = cache.folder.glob("*.sha256")
    note.write_text("damaged")
    assert cache.image_sha256(path) == expected
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert cache.image_sha256(path) == expected
    assert len(hashed) == 3
    path.write_bytes(bytes(range(1, 101)))
    assert cache.image_sha256(path) == file_sha256(path) != expected


def test_where_features_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("STIMAGE_QUPATH_CACHE", str(tmp_path))
    assert choose_cache(None).folder == default_folder() == tmp_path
    assert choose_cache(tmp_path / "own").folder == tmp_path / "own"
    assert choose_cache(tmp_path, off=True) is None
    monkeypatch.delenv("STIMAGE_QUPATH_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    places = {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}
    for platform, place in places.items():
        monkeypatch.setattr(module.sys, "platform", platform)
        assert default_folder() == tmp_path / place / "stimage-qupath" / "features"


def test_a_section_too_coarse_for_the_encoder_is_refused_and_a_coarse_one_is_noted(slide):
    sections = [section(slide)]
    (encoded,) = encode_sections(
        sections,
        Counting(mpp=0.4),
        device=CPU,
        batch_size=4,
        threads=1,
        on_progress=no_progress,
        cancelled=never_cancelled,
    )
    (note,) = encoded.section.notes
    assert note.startswith("the image of section s has pixels of 0.5 um, enlarged 1.25 times for counting")
    with pytest.raises(CalibrationError, match=r"reads 0.25 um, found 0.5 um"):
        encode(sections, Counting(mpp=0.25), None)
