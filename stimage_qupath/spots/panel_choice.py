"""``--genes`` in one word: a file, a named list, or a rule that the training sections fill."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Panel
from stimage_qupath.spots.genes import (
    detected_genes,
    look_up,
    named_list,
    read_gene_list,
    variable_genes,
    well_known,
)
from stimage_qupath.spots.section import Section
from stimage_qupath.spots.spatial_genes import spatial_genes

MIN_DETECTION: Final = 0.2
LISTS: Final = {
    "pam50": ("pam50", "the 50 genes of PAM50"),
    "oncotype": ("recurrence_21", "the 21-gene recurrence score"),
    "mcpcounter": ("mcpcounter", "the 111 genes of MCP-counter"),
    "stimage": ("stimage_769", "STimage's 769 genes, chosen with the sections of her2st themselves"),
    "markers": ("markers", "common markers"),
}
_RULE: Final = re.compile(r"(?P<rule>hvg|svg):(?P<number>[1-9]\d*)|detected:(?P<share>0?\.\d+|1(?:\.0*)?)")


@dataclass(frozen=True, slots=True)
class PanelChoice:
    """A panel and how it came about.

    Attributes
    ----------
    panel
        Genes, as the sections name them.
    how
        For the model card.
    missing
        Asked for, but not measured.
    notes
        What was mapped, merged or not found.
    """

    panel: Panel
    how: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_panel(
    asked: str | None, sections: Sequence[Section], *, number: int = 1000, min_detection: float = MIN_DETECTION
) -> PanelChoice:
    """Return the panel that ``--genes`` asks for, by the training sections alone.

    Parameters
    ----------
    asked
        ``pam50``, ``oncotype``, ``mcpcounter``, ``stimage``, ``markers``; ``hvg:1000`` (most variable), ``svg:500``
        (strongest spatial pattern), ``detected:0.05`` (seen in that share of the spots); else the path of a list. None
        is ``hvg`` of ``number`` and the well-known genes.
    sections
        Training sections.
    number
        Genes where ``asked`` is None.
    min_detection
        Expression floor of ``hvg`` and ``svg``: share of spots with a count, in the section where it is highest.

    Raises
    ------
    UsageError
        There is no such list or file, or none of its genes was measured.
    """
    if asked is None:
        panel = variable_genes(sections, number=number, min_detection=min_detection, keep=well_known())
        how = "most variable over the spots of the training sections, and PAM50, the 21-gene score and common markers"
        return PanelChoice(panel, how)
    rule = _RULE.fullmatch(asked)
    if rule is not None:
        return _by_rule(rule, sections, min_detection)
    if asked in LISTS:
        file, how = LISTS[asked]
        panel, found = look_up(named_list(file), sections, what=f"the list {asked}")
    else:
        panel, found = look_up(_read(asked), sections, what=asked)
        how = "a list given by the user"
    return PanelChoice(panel, how, found.missing, tuple(found.notes()))


def _by_rule(rule: re.Match[str], sections: Sequence[Section], min_detection: float) -> PanelChoice:
    if rule["share"]:
        share = float(rule["share"])
        how = f"detected in {share:.0%} of the spots of a training section"
        return PanelChoice(detected_genes(sections, min_detection=share), how)
    number = int(rule["number"])
    if rule["rule"] == "hvg":
        how = f"the {number} genes that vary most over the spots of the training sections"
        return PanelChoice(variable_genes(sections, number=number, min_detection=min_detection), how)
    how = f"the {number} genes with the strongest spatial pattern (Moran's I) in the training sections"
    return PanelChoice(spatial_genes(sections, number=number, min_detection=min_detection), how)


def _read(asked: str) -> tuple[str, ...]:
    """Read a file; a word that is neither file nor list is told what there is."""
    path = Path(asked)
    if not path.is_file() and not path.suffix and path.name == asked:
        msg = f"expected genes by a file, one of {', '.join(LISTS)}, or hvg:N, svg:N, detected:SHARE, found '{asked}'"
        raise UsageError(msg)
    return read_gene_list(path)
