"""Which genes a model predicts: read from a file, or chosen on the training sections alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Panel
from stimage_qupath.spots.residuals import pearson_residuals
from stimage_qupath.spots.section import Section

NAMED_LISTS = ("pam50", "recurrence_21", "markers")
"""Lists that ship with the package; each file says where it comes from."""


def named_list(name: str) -> tuple[str, ...]:
    """Return the genes of one of :data:`NAMED_LISTS`, by their HGNC symbols."""
    return _symbols((resources.files(__package__) / "gene_lists" / f"{name}.txt").read_text(encoding="utf-8"))


def well_known() -> tuple[str, ...]:
    """Return the genes of all named lists: what a user of a tumour panel looks for first."""
    return tuple(dict.fromkeys(gene for name in NAMED_LISTS for gene in named_list(name)))


def _symbols(text: str) -> tuple[str, ...]:
    """Return the symbols of a list, a line each, ``#`` begins a comment; doubled ones once."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def read_panel(path: Path, sections: Sequence[Section]) -> tuple[Panel, tuple[str, ...]]:
    """Read a list of genes, one a line (``#`` starts a comment); return it and the genes no section measured.

    Raises
    ------
    UsageError
        The file is missing, or none of its genes was measured.
    """
    if not path.is_file():
        msg = f"expected a list of genes at {path}, found no file; pass a text file with one symbol a line"
        raise UsageError(msg)
    asked = _symbols(path.read_text(encoding="utf-8-sig"))
    measured = {gene for section in sections for gene in section.genes}
    genes = tuple(gene for gene in asked if gene in measured)
    if not genes:
        first = asked[0] if asked else ""
        msg = f"expected genes that the sections measured in {path}, found none of them; the first is '{first}'"
        raise UsageError(msg)
    return Panel(genes), tuple(gene for gene in asked if gene not in measured)


def variable_genes(
    sections: Sequence[Section], *, number: int, min_detection: float = 0.2, keep: Sequence[str] = ()
) -> Panel:
    """Choose the genes that vary most over the spots of each section, by training data alone.

    Variability is the mean squared Pearson residual against "same share everywhere in this section" (Lause, Berens &
    Kobak 2021, doi 10.1186/s13059-021-02451-7), averaged over sections, so that neither depth nor a difference between
    patients makes a gene variable. Genes must be measured in every section, and detected in ``min_detection`` of the
    spots of one.

    Parameters
    ----------
    sections
        Training sections.
    number
        Genes to keep at the most.
    min_detection
        Share of spots with at least one count, in the section where it is highest.
    keep
        Genes that join the panel besides, however little they vary, if every section measured them.
    """
    common = set(sections[0].genes).intersection(*(s.genes for s in sections[1:]))
    genes = tuple(sorted(common))
    variability, detection = np.zeros(len(genes)), np.zeros(len(genes))
    for section in sections:
        counts, totals = section.counts_of(genes), section.totals
        rates = counts.sum(axis=0) / totals.sum()
        residual = pearson_residuals(counts, totals, rates, clip=float(np.sqrt(len(totals))))
        variability += (residual**2).mean(axis=0) / len(sections)
        detection = np.maximum(detection, (counts > 0).mean(axis=0))
    eligible = np.flatnonzero(detection >= min_detection)
    if not eligible.size:
        msg = f"expected genes detected in {min_detection:.0%} of the spots of a section, found none; check the counts"
        raise UsageError(msg)
    best = eligible[np.argsort(-variability[eligible], kind="stable")[:number]]
    return Panel(tuple(sorted({genes[i] for i in best} | common.intersection(keep))))
