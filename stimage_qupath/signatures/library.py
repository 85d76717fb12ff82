"""The linear signatures that ship with the package, and users' own from GMT files."""

from __future__ import annotations

import csv
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final

from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import Signature, Term

GMT_SUFFIX: Final = ".gmt"
MCPCOUNTER: Final = "mcpcounter"
GGI: Final = "ggi"
ONCOTYPE: Final = "oncotype"
PAM50_PROLIFERATION: Final = "pam50-proliferation"
LINEAR: Final = (MCPCOUNTER, PAM50_PROLIFERATION, ONCOTYPE, GGI)
"""Words for :func:`linear_signatures`; ``oncotype`` is the four groups of the 21 genes, whose recurrence score itself
has thresholds and belongs to patients."""
MOST: Final = 100
"""Each is three measurements of every nucleus; a whole collection of sets would drown QuPath's table."""


def data_rows(file: str) -> list[dict[str, str]]:
    """Return the rows of a table that ships with the package, its comments left out."""
    return list(csv.DictReader(line for line in _text(file).splitlines() if not line.startswith("#")))


def _text(file: str) -> str:
    return (resources.files(__package__) / "data" / file).read_text(encoding="utf-8")


def linear_signatures(words: Sequence[str]) -> tuple[Signature, ...]:
    """Return the signatures that some words stand for.

    Parameters
    ----------
    words
        Each one of :data:`LINEAR` or the path of a GMT file.

    Raises
    ------
    UsageError
        A word is neither, a file cannot be used, there are more than :data:`MOST`, or two signatures have one name.
    """
    found = [signature for word in dict.fromkeys(words) for signature in _of_word(word)]
    if len(found) > MOST:
        msg = f"expected at most {MOST} signatures at a time, found {len(found)}; keep those you need in the GMT file"
        raise UsageError(msg)
    columns = [column_name(signature.name) for signature in found]
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled:
        msg = f"expected signatures of different names, found '{doubled[0]}' more than once; rename one in its GMT file"
        raise UsageError(msg)
    return tuple(found)


def column_name(name: str) -> str:
    """Return how a signature is called in tables: ``T cells`` is ``t_cells``."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _of_word(word: str) -> tuple[Signature, ...]:
    if word == MCPCOUNTER:
        return mcpcounter()
    if word == GGI:
        return (genomic_grade(),)
    of_file = _linear_file()
    if word == PAM50_PROLIFERATION:
        return (of_file[word],)
    if word == ONCOTYPE:
        return tuple(signature for key, signature in of_file.items() if key.startswith(f"{ONCOTYPE}-"))
    if word.lower().endswith(GMT_SUFFIX):
        return read_gmt(Path(word))
    msg = f"expected a signature out of {', '.join(LINEAR)} or a GMT file, found '{word}'"
    raise UsageError(msg)


@cache
def mcpcounter() -> tuple[Signature, ...]:
    """Return MCP-counter's ten populations: each the mean over its markers (Becht et al. 2016)."""
    populations: dict[str, list[str]] = {}
    for row in data_rows("mcpcounter.csv"):
        populations.setdefault(row["population"], []).append(row["gene"])
    source = "E. Becht et al., Genome Biology 17:218 (2016), doi 10.1186/s13059-016-1070-5; CC0 1.0"
    return tuple(Signature.mean_of(name, genes, source=source) for name, genes in populations.items())


@cache
def genomic_grade() -> Signature:
    """Return the genomic grade index before it is scaled (Sotiriou et al. 2006): probe sets of grade 3 minus grade 1.

    The published sum runs over 128 probe sets; here a gene counts as often as it has probe sets, and the sum is divided
    by their number, so that panels that lack a few stay on one scale. Scale and offset are a cohort's own anyway.
    """
    weights: dict[str, dict[str, float]] = {"3": {}, "1": {}}
    for row in data_rows("ggi.csv"):
        if row["gene"]:
            side = weights[row["grade"]]
            side[row["gene"]] = side.get(row["gene"], 0.0) + 1.0
    total = sum(sum(side.values()) for side in weights.values())
    terms = tuple(Term(sign * sum(weights[g].values()) / total, weights[g]) for g, sign in (("3", 1.0), ("1", -1.0)))
    return Signature("genomic grade", terms, "C. Sotiriou et al., JNCI 98:262 (2006), doi 10.1093/jnci/djj052")


@cache
def _linear_file() -> dict[str, Signature]:
    """Return the signatures of ``linear.toml`` by their keys."""
    return {
        key: Signature(
            entry["name"],
            tuple(
                Term(float(t["coefficient"]), {g: float(w) for g, w in t["weights"].items()}) for t in entry["terms"]
            ),
            entry["source"],
        )
        for key, entry in tomllib.loads(_text("linear.toml")).items()
    }


def read_gmt(path: Path) -> tuple[Signature, ...]:
    """Read a GMT file: a set a line, its name, a description and its genes, tabs between; a score is their mean.

    Raises
    ------
    UsageError
        There is no file, it is not text, a line has no gene, or it holds no set.
    """
    if not path.is_file():
        msg = f"expected a GMT file at {path}, found no file; give a set a line: name, description, genes, tabs between"
        raise UsageError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"expected a GMT file in UTF-8 at {path}, found: {error}; save it as text"
        raise UsageError(msg) from error
    found = tuple(_gmt_lines(path, text))
    if not found:
        msg = f"expected gene sets in {path}, found none; write a set a line: name, description, genes, tabs between"
        raise UsageError(msg)
    return found


def _gmt_lines(path: Path, text: str) -> Iterator[Signature]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, _, *genes = (part.strip() for part in f"{line}\t\t".split("\t"))
        genes = [gene for gene in genes if gene]
        if not name or not genes:
            msg = (
                f"expected a name, a description and genes in line {number} of {path}, found '{line[:60]}'; "
                "put tabs between"
            )
            raise UsageError(msg)
        yield Signature.mean_of(name, genes, source=path.name)
