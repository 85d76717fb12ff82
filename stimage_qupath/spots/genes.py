"""Which genes a model predicts: a list by name or from a file, or chosen on the training sections alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.errors import UsageError
from stimage_qupath.results import Panel
from stimage_qupath.spots.gene_names import Lookup, find_genes
from stimage_qupath.spots.residuals import pearson_residuals
from stimage_qupath.spots.section import Section

WELL_KNOWN_LISTS = ("pam50", "recurrence_21", "markers")
NAMED_LISTS = (*WELL_KNOWN_LISTS, "mcpcounter", "stimage_769")
"""Lists that ship with the package; each file says where it comes from."""


def named_list(name: str) -> tuple[str, ...]:
    """Return the genes of one of :data:`NAMED_LISTS`, as it was published."""
    return _symbols((resources.files(__package__) / "gene_lists" / f"{name}.txt").read_text(encoding="utf-8"))


def well_known() -> tuple[str, ...]:
    """Return the genes that a user of a tumour panel looks for first."""
    return tuple(dict.fromkeys(gene for name in WELL_KNOWN_LISTS for gene in named_list(name)))


def _symbols(text: str) -> tuple[str, ...]:
    """Return the symbols of a list, a line each, ``#`` begins a comment; doubled ones once."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def read_gene_list(path: Path) -> tuple[str, ...]:
    """Read a list of genes, one a line; ``#`` starts a comment.

    Raises
    ------
    UsageError
        The file is missing or empty.
    """
    if not path.is_file():
        msg = f"expected a list of genes at {path}, found no file; pass a text file with one symbol a line"
        raise UsageError(msg)
    genes = _symbols(path.read_text(encoding="utf-8-sig"))
    if not genes:
        msg = f"expected genes in {path}, found none; write one symbol a line"
        raise UsageError(msg)
    return genes


def look_up(asked: Sequence[str], sections: Sequence[Section], *, what: str) -> tuple[Panel, Lookup]:
    """Return those of ``asked`` that a section measured, under its name for them, and what became of the others.

    Parameters
    ----------
    asked
        Symbols or Ensembl accessions.
    sections
        Where they may have been measured.
    what
        The list's name, for the message.

    Raises
    ------
    UsageError
        None of them was measured.
    """
    measured = list(dict.fromkeys(gene for section in sections for gene in section.genes))
    ids = {
        gene_id: gene
        for section in sections
        for gene, gene_id in zip(section.genes, section.gene_ids, strict=bool(section.gene_ids))
        if gene_id
    }
    found = find_genes(asked, measured, ids)
    if not found.genes:
        first = asked[0] if asked else ""
        msg = f"expected genes that the sections measured in {what}, found none of them; the first is '{first}'"
        raise UsageError(msg)
    return Panel(found.genes), found


def read_panel(path: Path, sections: Sequence[Section]) -> tuple[Panel, tuple[str, ...]]:
    """Read a list of genes from a file; return it and the genes no section measured.

    Raises
    ------
    UsageError
        The file is missing, or none of its genes was measured.
    """
    panel, found = look_up(read_gene_list(path), sections, what=str(path))
    return panel, found.missing


def common_genes(sections: Sequence[Section]) -> tuple[str, ...]:
    """Return the genes that every section measured, sorted."""
    return tuple(sorted(set(sections[0].genes).intersection(*(s.genes for s in sections[1:]))))


def detection_share(sections: Sequence[Section], genes: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of spots with at least one count, in the section where it is highest, (gene,)."""
    return np.asarray(np.max([_detected(section, genes) for section in sections], axis=0))


def _detected(section: Section, genes: Sequence[str]) -> NDArray[np.float64]:
    share = dict(zip(section.genes, np.asarray((section.counts > 0).mean(axis=0)).ravel(), strict=True))
    return np.array([share[gene] for gene in genes])


def require_detected(genes: Sequence[str], share: NDArray[np.float64], minimum: float) -> tuple[str, ...]:
    """Return the genes detected in at least ``minimum`` of the spots.

    Raises
    ------
    UsageError
        There are none.
    """
    eligible = tuple(gene for gene, detected in zip(genes, share, strict=True) if detected >= minimum)
    if not eligible:
        msg = f"expected genes detected in {minimum:.0%} of the spots of a section, found none; check the counts"
        raise UsageError(msg)
    return eligible


def detected_genes(sections: Sequence[Section], *, min_detection: float) -> Panel:
    """Return every gene that is detected in ``min_detection`` of the spots of a section, by training data alone."""
    common = common_genes(sections)
    return Panel(require_detected(common, detection_share(sections, common), min_detection))


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
    common = common_genes(sections)
    eligible = require_detected(common, detection_share(sections, common), min_detection)
    variability = np.zeros(len(eligible))
    for section in sections:
        counts, totals = section.counts_of(eligible), section.totals
        rates = counts.sum(axis=0) / totals.sum()
        residual = pearson_residuals(counts, totals, rates, clip=float(np.sqrt(len(totals))))
        variability += (residual**2).mean(axis=0) / len(sections)
    best = np.argsort(-variability, kind="stable")[:number]
    return Panel(tuple(sorted({eligible[i] for i in best} | set(common).intersection(keep))))
