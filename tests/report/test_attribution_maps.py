"""Pictures of attributions: one a map, deterministic, with the words that must stand on them."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from stimage_qupath.report.attribution_maps import attribution_maps


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    found = pd.DataFrame(rng.uniform(0, 400, (50, 2)), columns=["x_px", "y_px"])
    found["ERBB2"] = rng.normal(size=50)
    found["HLA-A/B"] = np.where(np.arange(50) < 10, np.nan, 1.0)
    return found


@pytest.fixture
def words(monkeypatch):
    """Return what is written on every figure that is drawn."""
    found = []
    keep = matplotlib.figure.Figure.savefig

    def savefig(self, *args, **kwargs):
        axes = self.axes
        found.append([axes[0].get_title(), axes[1].get_ylabel(), self.get_supxlabel()])
        keep(self, *args, **kwargs)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return found


def test_a_picture_a_map_with_its_words(table, words):
    background = (np.full((100, 100, 3), 240, np.uint8), 4.0)
    made = attribution_maps(table, background, "ablation of log mean", signed=True, note="Faithful to the model.")
    assert list(made) == ["attribution_ERBB2.png", "attribution_HLA-A_B.png"]
    assert all(content.startswith(b"\x89PNG") for content in made.values())
    assert words[0] == [
        "ERBB2   50 nuclei shown   ablation of log mean",
        "ERBB2: attribution (red: raises the prediction)",
        "Faithful to the model.",
    ]
    assert words[1][0].startswith("HLA-A/B   40 nuclei shown")
    assert made == attribution_maps(
        table, background, "ablation of log mean", signed=True, note="Faithful to the model."
    )


def test_unsigned_maps_say_so_and_no_values_are_no_fault(table, words):
    empty = table.assign(ERBB2=np.nan).drop(columns="HLA-A/B")
    background = (np.full((100, 100, 3), 240, np.uint8), 4.0)
    made = attribution_maps(empty, background, "saliency of log mean", signed=False, note="")
    assert list(made) == ["attribution_ERBB2.png"]
    assert words[0][0].startswith("ERBB2   0 nuclei shown")
    assert "which way is not said" in words[0][1]
