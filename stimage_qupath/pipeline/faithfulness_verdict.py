"""What all blocks together say of an attribution, gene by gene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from stimage_qupath.attribution.faithfulness import BALANCE_AT, COVARIATES, BlockFaithfulness
from stimage_qupath.attribution.robustness import Robustness
from stimage_qupath.validation.block_effect import LEAST_BLOCKS, effect, holm

LEADS = ("deletion", "insertion", "both")
"""``both``, the mean of the two, is what is tested and corrected over genes; the parts are told beside it."""


def verdict(
    genes: Sequence[str],
    shares: Sequence[float],
    blocks: Sequence[BlockFaithfulness],
    robust: Sequence[Robustness],
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return the record of each gene.

    Parameters
    ----------
    genes, shares
        Names, and shares of the nuclear area at which curves are noted.
    blocks
        At least one.
    robust
        Of the blocks on which that was measured.
    seed
        Of sign flips and resamples.
    """
    leads = np.stack([block.lead for block in blocks])  # (block, lead, gene)
    over_regions = np.stack([block.lead_over_regions for block in blocks])
    found: dict[str, dict[str, Any]] = {}
    for k, gene in enumerate(genes):
        tests = {name: effect(leads[:, i, k], seed=seed).to_dict() for i, name in enumerate(LEADS)}
        found[gene] = {
            "blocks": len(blocks),
            "nuclei": sum(block.nuclei for block in blocks),
            "shares": list(shares),
            "curves": _curves(blocks, k),
            "over_matched_nuclei": tests,
            "over_random_regions": effect(over_regions[:, k], seed=seed).to_dict(),
            "reason": None if len(blocks) >= LEAST_BLOCKS else f"not tested: fewer than {LEAST_BLOCKS} blocks",
            "balance": _balance(blocks, k),
            "robustness": _robustness(robust, k),
        }
    _correct([found[gene]["over_matched_nuclei"]["both"] for gene in genes])
    _correct([found[gene]["over_random_regions"] for gene in genes])
    return found


def _correct(tests: Sequence[dict[str, Any]]) -> None:
    """Give each test its p corrected over all."""
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p


def _curves(blocks: Sequence[BlockFaithfulness], k: int) -> dict[str, dict[str, list[float]]]:
    """Return changes from the block as it is, mean over blocks."""
    untouched = np.stack([block.untouched[k] for block in blocks])[:, None]
    ordered, matched = (
        np.stack([getattr(block, name)[:, :, k] for block in blocks]) for name in ("ordered", "matched")
    )
    regions = np.stack([block.regions[:, k] for block in blocks])
    bare = np.stack([block.bare[k] for block in blocks])[:, None]
    deletion = {"ordered": ordered[:, 0], "matched": matched[:, 0], "regions": regions}
    insertion = {"ordered": ordered[:, 1], "matched": matched[:, 1], "none restored": bare}
    return {
        name: {of: (values - untouched).mean(axis=0).tolist() for of, values in those.items()}
        for name, those in (("deletion", deletion), ("insertion", insertion))
    }


def _balance(blocks: Sequence[BlockFaithfulness], k: int) -> dict[str, Any]:
    mean = np.mean([block.balance[:, :, k] for block in blocks], axis=0)
    return {
        "at_share": BALANCE_AT,
        "of_all_nuclei": dict(zip(COVARIATES, mean[0].tolist(), strict=True)),
        "of_matched_nuclei": dict(zip(COVARIATES, mean[1].tolist(), strict=True)),
    }


def _robustness(robust: Sequence[Robustness], k: int) -> dict[str, Any]:
    """Return the mean of each figure over blocks; None where none has it."""
    record: dict[str, Any] = {"blocks": len(robust)}
    for field in fields(Robustness):
        values = np.array([getattr(one, field.name)[k] for one in robust])
        record[field.name] = float(values.mean()) if len(values) and np.isfinite(values).all() else None
    return record
