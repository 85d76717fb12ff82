"""Pictures of a survival analysis: curves with numbers at risk, calibration, and C of every model."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stimage_qupath.report.plots import BLUE, INK, ORANGE, data_uri, plot_axes, plot_legend

GROUPS = {"low": BLUE, "high": ORANGE}
PNG_DPI = 150


def pictures(survival: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    """Yield file stem, caption and figure of each picture.

    Parameters
    ----------
    survival
        What ``survival.json`` holds.
    """
    yield "c_index", "C within folds of every model, with 95 % intervals over patients.", c_index(survival)
    unit = survival["settings"]["time"]
    for name, model in survival["models"].items():
        stem = file_stem(name)
        p = model["p"]
        said = "not tested" if p is None else f"permutation p {p['log_rank']:.3g}"
        caption = f"{name}: patients by the risk of models that have not seen them; {said}."
        yield f"groups_{stem}", caption, kaplan_meier(model["groups"], model["band"], unit)
        if model["calibration"] is not None:
            caption = f"{name}: survival at {model['calibration']['horizon']:.4g} {unit}, predicted and observed."
            yield f"calibration_{stem}", caption, calibration(model["calibration"])
    if survival["external"] is not None:
        for name, model in survival["external"]["models"].items():
            caption = f"{name} in {survival['external']['file']}, model and cut-point fixed before."
            yield f"external_{file_stem(name)}", caption, kaplan_meier(model["groups"], None, unit)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, drawn once for the page and for its files.

    Attributes
    ----------
    stem
        Of the files.
    caption
        Sentence under it.
    uri
        ``data:`` address of the SVG.
    png
        The same as PNG, on white.
    """

    stem: str
    caption: str
    uri: str
    png: bytes

    def save(self, folder: Path) -> None:
        """Write ``stem.png`` and ``stem.svg``."""
        (folder / f"{self.stem}.png").write_bytes(self.png)
        (folder / f"{self.stem}.svg").write_bytes(base64.b64decode(self.uri.partition(",")[2]))


def draw(survival: Mapping[str, Any]) -> list[Drawn]:
    """Return every picture of an analysis, see :func:`pictures`."""
    drawn = []
    for stem, caption, figure in pictures(survival):
        uri = data_uri(figure)
        figure.set_facecolor("white")
        figure.set_layout_engine("none")  # it is laid out already
        figure.set_canvas(FigureCanvasAgg(figure))
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=PNG_DPI, metadata={"Software": None})
        drawn.append(Drawn(stem, caption, uri, file.getvalue()))
    return drawn


def file_stem(name: str) -> str:
    """Return a model's name as part of a file name."""
    return name.replace(" + ", "_and_").replace(" ", "_")


def kaplan_meier(groups: Mapping[str, Any], band: Mapping[str, Any] | None, unit: str) -> Figure:
    """Return survival of both groups with their intervals, numbers at risk below, and the band of uncertain input.

    Parameters
    ----------
    groups
        Of :func:`~stimage_qupath.clinical.groups.risk_groups`.
    band
        Of :func:`~stimage_qupath.clinical.predictive_band.predictive_band`, or None.
    unit
        What time is called.
    """
    figure, axes = plot_axes(4.8, 3.8)
    for name, colour in GROUPS.items():
        _curve(axes, name, groups[name], colour)
        if band is not None and band[name] is not None:
            low, high = band[name]
            axes.plot(band["times"], low, color=colour, linewidth=0.7, linestyle=":")
            axes.plot(band["times"], high, color=colour, linewidth=0.7, linestyle=":")
    # names and numbers at risk stand in the label under the axis, so that the layout engine keeps room for them
    axes.set(ylabel="without the event", ylim=(0, 1.02), xlim=(0, groups["times"][-1]))
    axes.set_xticks(groups["times"], [_tick(number, time, groups) for number, time in enumerate(groups["times"])])
    axes.set_xlabel(f"{unit}; patients at risk: low above, high below".replace("$", r"\$"))
    plot_legend(axes)
    return figure


def _tick(number: int, time: float, groups: Mapping[str, Any]) -> str:
    return f"{time:.3g}\n{groups['low']['at_risk'][number]}\n{groups['high']['at_risk'][number]}"


def _curve(axes: Axes, name: str, group: Mapping[str, Any], colour: str) -> None:
    curve = group["curve"]
    time = np.array([0.0, *curve["time"], curve["end"]])

    def step(values: list[float]) -> np.ndarray[Any, Any]:
        return np.array([1.0, *values, values[-1] if values else 1.0])

    label = f"{name} risk: {group['patients']} patients, {group['events']} events"
    axes.step(time, step(curve["survival"]), where="post", color=colour, label=label)
    axes.fill_between(time, step(curve["low"]), step(curve["high"]), step="post", color=colour, alpha=0.18, linewidth=0)


def calibration(figures: Mapping[str, Any]) -> Figure:
    """Return predicted against observed survival at the horizon, by quarters of the predicted."""
    figure, axes = plot_axes(3.4, 3.2)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle=":")
    for group in figures["groups"]:
        axes.plot([group["predicted"]] * 2, group["ci"], color=BLUE, linewidth=1.4)
        axes.plot([group["predicted"]], [group["observed"]], marker="o", markersize=4, color=BLUE)
    least = min([*(g["predicted"] for g in figures["groups"]), *(g["ci"][0] for g in figures["groups"]), 0.95])
    axes.set(xlabel="predicted", ylabel="observed (Kaplan-Meier)", xlim=(least - 0.03, 1.01), ylim=(least - 0.03, 1.01))
    return figure


def c_index(survival: Mapping[str, Any]) -> Figure:
    """Return C of every model and baseline with its interval, beside a line at one half."""
    rows = {name: model["c"] for name, model in survival["models"].items()}
    rows |= {name: model["c"] for name, model in survival["baselines"].items()}
    if survival["external"] is not None:
        rows |= {f"external: {name}": model["c"] for name, model in survival["external"]["models"].items()}
    figure, axes = plot_axes(5.6, 0.8 + 0.28 * len(rows))
    for place, (name, c) in enumerate(rows.items()):
        colour = ORANGE if "expression" in name else BLUE
        if c["ci"] is not None:
            axes.plot(c["ci"], [place, place], color=colour, linewidth=1.6)
        if c["value"] is not None:
            axes.plot([c["value"]], [place], marker="o", markersize=4, color=colour)
    axes.axvline(0.5, color=INK, linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel="C within folds", xlim=(0.3, 1), ylim=(len(rows) - 0.4, -0.6))
    return figure
