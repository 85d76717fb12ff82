"""Pictures of a drug-response analysis: for the page as SVG, and as files in SVG and PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from stimage_qupath.geojson_dialect.disk import output_errors
from stimage_qupath.report.plots import BLUE, GREY, INK, ORANGE, data_uri, plot_axes, plot_legend

Float = NDArray[np.float64]

DPI = 150
COLOURS = (BLUE, ORANGE, "#2f8f5b", "#a0509d")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture with its words.

    Attributes
    ----------
    uri
        ``data:`` address of the SVG.
    png
        The same as a file.
    caption
        Sentence under it.
    description
        What it shows, for who cannot see it.
    """

    uri: str
    png: bytes
    caption: str
    description: str

    @classmethod
    def of(cls, figure: Figure, caption: str, description: str) -> Drawing:
        """Return a figure as both kinds of file."""
        uri, file = data_uri(figure), io.BytesIO()
        figure.set_canvas(FigureCanvasAgg(figure))
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        return cls(uri, file.getvalue(), caption, description)


def write(drawing: Drawing, path: Path) -> None:
    """Write ``PATH.svg`` and ``PATH.png``.

    Parameters
    ----------
    drawing
        To be written.
    path
        Without a suffix.
    """
    with output_errors(path):
        path.with_name(f"{path.name}.svg").write_bytes(base64.b64decode(drawing.uri.partition(",")[2]))
        path.with_name(f"{path.name}.png").write_bytes(drawing.png)


def forest(rows: Mapping[str, tuple[float, tuple[float, float] | None]], *, metric: str, chance: float) -> Drawing:
    """Draw a figure of each model with its interval, beside a line at chance."""
    figure, axes = plot_axes(6.4, 0.8 + 0.28 * len(rows))
    for place, (label, (value, interval)) in enumerate(rows.items()):
        colour = ORANGE if label.startswith("covariate") else BLUE
        if interval is not None:
            axes.plot(interval, [place, place], color=colour, linewidth=1.6)
        axes.plot([value], [place], marker="o", markersize=4, color=colour)
    axes.axvline(chance, color=INK, linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(rows)), [_plain(label) for label in rows])
    axes.set(xlabel=f"{metric}, within folds", ylim=(len(rows) - 0.4, -0.6))
    said = "; ".join(
        f"{label} {value:.3f}" + ("" if ci is None else f" [{ci[0]:.3f}, {ci[1]:.3f}]")
        for label, (value, ci) in rows.items()
    )
    return Drawing.of(figure, f"Out-of-fold {metric} and 95 % interval; dotted: chance.", said)


def roc(y: Float, predictions: Mapping[str, Float]) -> Drawing:
    """Draw the share of responders found against that of others called, over all patients."""
    figure, axes = plot_axes(4.2, 4.0)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for colour, (label, score) in zip(_cycled(len(predictions)), predictions.items(), strict=True):
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
        found = np.concatenate([[0.0], np.cumsum(y[order])[last] / y.sum()])
        called = np.concatenate([[0.0], np.cumsum(1 - y[order])[last] / (1 - y).sum()])
        axes.plot(called, found, color=colour, label=_plain(label), linewidth=1.4)
    axes.set(xlabel="share of non-responders called", ylabel="share of responders found", aspect="equal")
    plot_legend(axes)
    caption = "Responders found against non-responders called, of predictions of models that had not seen the patient."
    return Drawing.of(figure, caption, f"ROC curves of {', '.join(predictions)}.")


def scatter(y: Float, prediction: Float, *, fold: NDArray[np.intp], label: str) -> Drawing:
    """Draw predicted against known responses, a colour a fold."""
    figure, axes = plot_axes(4.4, 4.0)
    for number, colour in zip(np.unique(fold), _cycled(len(np.unique(fold))), strict=True):
        rows = fold == number
        axes.plot(y[rows], prediction[rows], linestyle="", marker="o", markersize=2.6, color=colour, alpha=0.7)
    axes.set(xlabel="known response", ylabel="predicted")
    return Drawing.of(
        figure, f"{label}: each point a patient, each colour a fold.", f"Predicted against known, {label}."
    )


def null(values: Float, found: float, *, metric: str, label: str) -> Drawing:
    """Draw the figures of permuted expression, and the one that was found."""
    figure, axes = plot_axes()
    axes.hist(values, bins=min(40, max(8, len(values) // 8)), color=GREY)
    axes.axvline(found, color=BLUE, linewidth=1.6)
    axes.set(xlabel=f"{metric}, within folds", ylabel="permutations")
    caption = f"{label}: figures with expression given to other patients (grey), and as it is (line)."
    description = f"Null of mean {values.mean():.3f}, highest {values.max():.3f}; found {found:.3f}."
    return Drawing.of(figure, caption, description)


def coefficients(names: Sequence[str], mean: Float, sd: Float, *, label: str) -> Drawing:
    """Draw the largest coefficients, mean over folds and one SD to either side."""
    figure, axes = plot_axes(5.2, 0.8 + 0.2 * len(names))
    places = np.arange(len(names))
    axes.barh(places, mean, color=[ORANGE if value < 0 else BLUE for value in mean], height=0.7)
    axes.errorbar(mean, places, xerr=sd, fmt="none", ecolor=INK, elinewidth=0.8)
    _zero(axes)
    axes.set_yticks(places, [_plain(name) for name in names])
    axes.set(xlabel="coefficient per SD", ylim=(len(names) - 0.4, -0.6))
    said = ", ".join(f"{name} {value:+.3f}" for name, value in zip(names[:10], mean[:10], strict=True))
    return Drawing.of(figure, f"{label}: largest coefficients, mean and SD over folds.", f"The largest: {said}.")


def _zero(axes: Axes) -> None:
    axes.axvline(0, color=INK, linewidth=0.7)


def _plain(label: str) -> str:
    """Return a label that is drawn as it stands."""
    short = label if len(label) <= 48 else f"{label[:47]}…"
    return short.replace("$", r"\$")


def _cycled(number: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(number)]
