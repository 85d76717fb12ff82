"""Symbols and Ensembl accessions: which columns of a section a name means, and what was made of it.

Accessions are compared without their version (``ENSG00000142208.12``) and without GENCODE's mark of the Y copy
(``_PAR_Y``). Where a symbol was not measured, its renamed form is tried: names change (HGNC), sections do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from stimage_qupath.errors import UsageError
from stimage_qupath.spots.measurement import Measurement
from stimage_qupath.word_table import read_words

_ACCESSION: Final = re.compile(r"(ENS[A-Z]{0,6}G\d{11})(?:\.\d+)?(?:_PAR_Y)?")


def is_accession(name: str) -> bool:
    """Return whether a name is an Ensembl gene accession, of any species, with or without version."""
    return _ACCESSION.fullmatch(name) is not None


def without_version(name: str) -> str:
    """Return an accession without version; any other name as it is."""
    match = _ACCESSION.fullmatch(name)
    return match[1] if match else name


@cache
def renamed() -> Mapping[str, str]:
    """Return the approved HGNC symbol of each earlier one in ``gene_lists/renamed.tsv``."""
    text = (resources.files(__package__) / "gene_lists" / "renamed.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {row[0]: row[1] for row in rows}


def read_gene_table(path: Path) -> dict[str, str]:
    """Read a user's table of accessions and symbols; return symbols by accession without version.

    Parameters
    ----------
    path
        CSV or TSV with the columns ``gene_id`` and ``symbol``.

    Raises
    ------
    UsageError
        It is missing, of another form, or gives one accession two symbols.
    """
    if not path.is_file():
        msg = f"expected a table of genes at {path}, found no file; pass a CSV with the columns gene_id,symbol"
        raise UsageError(msg)
    table = read_words(path, what="a table of genes", separator="\t" if path.suffix in {".tsv", ".txt"} else ",")
    if not {"gene_id", "symbol"} <= set(table.columns):
        msg = f"expected the columns gene_id and symbol in {path}, found {', '.join(table.columns)}"
        raise UsageError(msg)
    table = table.assign(gene_id=table.gene_id.map(without_version))[["gene_id", "symbol"]].drop_duplicates()
    table = table[(table.gene_id != "") & (table.symbol != "")]
    doubled = table.gene_id[table.gene_id.duplicated()]
    if len(doubled):
        msg = f"expected one symbol for each gene_id in {path}, found several for {doubled.iloc[0]}"
        raise UsageError(msg)
    return dict(zip(table.gene_id, table.symbol, strict=True))


def with_symbols(measured: Measurement, table: Mapping[str, str] | None = None) -> Measurement:
    """Return the section with symbols for accessions, by ``table`` where it has them; what remains is noted.

    Accessions lose their version, so that two versions of a gene, or its two Y copies, become one name and are added
    up afterwards.
    """
    table = table or {}
    ids = measured.gene_ids or tuple(name if is_accession(name) else "" for name in measured.genes)
    ids = tuple(map(without_version, ids))
    names = [table.get(gene_id) or without_version(name) for name, gene_id in zip(measured.genes, ids, strict=True)]
    by_table = sum(bool(gene_id) and gene_id in table for gene_id in ids)
    left = sum(map(is_accession, names))
    notes = measured.notes
    if by_table:
        notes += (f"{by_table} of {len(names)} genes got their symbol from the table of genes",)
    if left:
        notes += (f"{left} of {len(names)} genes have no symbol and keep their Ensembl accession",)
    return replace(measured, genes=tuple(names), gene_ids=ids if any(ids) else (), notes=notes)


@dataclass(frozen=True, slots=True)
class Lookup:
    """What became of the genes that were asked for.

    Attributes
    ----------
    genes
        Names as the sections have them, in the order asked, each once.
    by_accession, by_earlier_name
        Asked name to measured name, where they differ.
    merged
        Asked names that meant a gene that was in the list already.
    missing
        Asked names that no section measured.
    """

    genes: tuple[str, ...]
    by_accession: Mapping[str, str]
    by_earlier_name: Mapping[str, str]
    merged: tuple[str, ...]
    missing: tuple[str, ...]

    def notes(self) -> list[str]:
        """Return a sentence for each thing the user should know."""
        found = []
        if self.by_accession:
            found.append(f"{len(self.by_accession)} genes were found by their Ensembl accession")
        if self.by_earlier_name:
            pairs = ", ".join(f"{asked} as {name}" for asked, name in self.by_earlier_name.items())
            found.append(f"renamed genes were found: {pairs}")
        if self.merged:
            found.append(f"named more than once under different names: {', '.join(self.merged)}")
        if self.missing:
            found.append(f"not measured: {', '.join(self.missing)}")
        return found


def find_genes(asked: Iterable[str], measured: Sequence[str], ids: Mapping[str, str]) -> Lookup:
    """Find genes among the measured ones: by name, by accession, then by a renamed form.

    Parameters
    ----------
    asked
        Symbols or accessions.
    measured
        Names of the sections.
    ids
        Measured name of each accession (without version).
    """
    present = set(measured)
    forms = _forms()
    wanted = list(dict.fromkeys(asked))
    genes: dict[str, None] = {}
    by_accession, by_earlier, merged, missing = {}, {}, [], []
    for name in wanted:
        found = name if name in present else ids.get(without_version(name))
        if found is not None and found != name:
            by_accession[name] = found
        if found is None:
            other = [form for form in forms.get(name, ()) if form in present]
            if len(other) != 1:
                missing.append(name)
                continue
            found = by_earlier[name] = other[0]
        if found in genes:
            merged.append(name)
        genes[found] = None
    return Lookup(tuple(genes), by_accession, by_earlier, tuple(merged), tuple(missing))


@cache
def _forms() -> Mapping[str, tuple[str, ...]]:
    """Return the other names of a gene, whether it is called by its earlier or its approved one."""
    forms: dict[str, set[str]] = {}
    for previous, approved in renamed().items():
        forms.setdefault(previous, set()).add(approved)
        forms.setdefault(approved, set()).add(previous)
    return {name: tuple(sorted(others)) for name, others in forms.items()}
