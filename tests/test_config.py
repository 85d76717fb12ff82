"""Settings: JSON and back, and nonsense refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stimage_qupath.config import PredictSettings, SegmentSettings, TrainSettings
from stimage_qupath.errors import UsageError


@pytest.mark.parametrize(
    "settings",
    [
        SegmentSettings(image=Path("a.svs"), output=Path("out")),
        PredictSettings(
            image=Path("a b/é.svs"),
            output=Path("out"),
            annotations=Path("r.geojson"),
            classes=("Tumor", "Stroma, other"),
            genes=("ERBB2",),
            unit="grid",
            stride_um=25.0,
            mpp=0.25,
        ),
        TrainSettings(dataset=Path("t.csv"), output=Path("m"), hold_out=("C6",), encoder_weights=Path("w.safetensors")),
    ],
)
def test_json_and_back(settings):
    assert type(settings).from_json(settings.to_json()) == settings


def test_whole_numbers_are_accepted_where_a_float_stands():
    assert SegmentSettings.from_dict({"image": "a", "output": "b", "mpp": 1}).mpp == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "a", "output": "b", "gene": "x"}, "expected settings out of .*, found gene"),
        ({"image": "a"}, "settings are incomplete"),
        ({"image": "a", "output": "b", "unit": "spots"}, "expected unit out of cells, grid, found 'spots'"),
        ({"image": "a", "output": "b", "device": "tpu"}, "expected device out of auto, cpu, cuda, mps"),
        ({"image": "a", "output": "b", "stride_um": 20.0}, "expected a stride only with a grid"),
        ({"image": "a", "output": "b", "unit": "grid", "stride_um": 0.0}, "expected a stride between 1 and 1000"),
        ({"image": "a", "output": "b", "threads": 0}, "expected threads of at least 1"),
        ({"image": "a", "output": "b", "batch_size": 0}, "expected batch_size of at least 1"),
        ({"image": "a", "output": "b", "mpp": "half"}, "expected mpp of type float, found 'half'"),
        ({"image": "a", "output": "b", "max_bad_tiles": 2.0}, "expected max_bad_tiles between 0 and 1"),
    ],
)
def test_nonsense_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        PredictSettings.from_dict(values)


def test_text_that_is_no_settings():
    with pytest.raises(UsageError, match="found text that is not JSON"):
        PredictSettings.from_json("{")
    with pytest.raises(UsageError, match="found list"):
        PredictSettings.from_json("[]")
    with pytest.raises(UsageError, match="expected members of at least 2"):
        TrainSettings(dataset=Path("t"), output=Path("m"), members=1)
