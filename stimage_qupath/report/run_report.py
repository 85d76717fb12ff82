"""A run as one page: the slide with its nuclei, tables, plots, the model's card and the run's limits.

The page asks nothing of a network: its script, style, picture and numbers are in it, and its content policy forbids all
else. Names that come from files enter as escaped text, and as JSON whose ``<``, ``>`` and ``&`` are escaped; the script
sets them as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from stimage_qupath.report.html import Picture
from stimage_qupath.report.run_report_tables import SortTable

CITATIONS: Final = (
    "Tan et al. STimage. Nature Communications (2026). https://doi.org/10.1038/s41467-026-68487-0",
    "stimage-qupath {version}: predicted gene expression for every nucleus of an H&E slide, inside QuPath and out. "
    "Cite the repository with this version, the model '{model}' and its training data ({licence}).",
)
LIMITS: Final = (
    "A value is the expected count in a window of the model's own size around a nucleus, at the model's reference "
    "depth. It is a prediction from context. It was not measured, and it is not the count of one cell.",
    "Neighbouring nuclei share most of their window. Smooth maps, and agreement between neighbours, come with the "
    "method and are no evidence of biology.",
    "How well a gene can be predicted differs from gene to gene; the table of genes says how well on sections that "
    "training had not seen. Correlations of 0.1 to 0.3 show trends over many nuclei, not the state of one.",
    "The epistemic SD is disagreement between models trained on the same few patients. It does not know how other "
    "patients, stains, scanners and laboratories differ. An unfamiliar image can be wrong and certain at once.",
    "Nuclei outside training are grey in the viewer. Within training does not mean right.",
    "Attributions, where shown, are faithful to the model. They are not evidence of biology.",
    "Nuclei were outlined automatically unless they came with the run; errors there move values to the wrong place.",
)
"""What is true of every run, in plain words."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page that holds tables.

    Attributes
    ----------
    anchor
        Its id on the page.
    title
        Its head.
    tables
        What is in it; a part without any is left out.
    """

    anchor: str
    title: str
    tables: Sequence[SortTable]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """Everything the page shows.

    Attributes
    ----------
    title, subtitle
        Image, and what made the run.
    facts
        The few numbers at the top.
    warnings
        Of the run.
    parts
        Tables.
    pictures
        Plots.
    card_facts, card_text
        Of the model's card, and the whole of it; empty without a model.
    limits
        What these predictions can and cannot say.
    citations
        Works to cite.
    versions
        Sentence on versions.
    research_use
        Sentence that is always in sight.
    viewer
        What the script needs: JSON-able.
    arrays
        Name to base64.
    slide_uri
        ``data:`` address of the slide's picture, or None.
    drawn
        Sentence on how many nuclei the viewer holds.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    parts: Sequence[Part]
    pictures: Sequence[Picture]
    card_facts: Mapping[str, str]
    card_text: str
    limits: Sequence[str]
    citations: Sequence[str]
    versions: str
    research_use: str
    viewer: Mapping[str, Any]
    arrays: Mapping[str, str] = field(default_factory=dict)
    slide_uri: str | None = None
    drawn: str = ""


def run_page(page: RunPage) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("stimage_qupath.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _own("run_report.css"), _own("run_report.js")
    return environment.get_template("run_report.html.j2").render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def _own(name: str) -> str:
    text = (resources.files("stimage_qupath.report") / "templates" / name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # browsers hash what they parsed


def _policy_hash(text: str) -> str:
    """Return what a content policy calls a script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
