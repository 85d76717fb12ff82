"""What a survival analysis comes to, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

LEVEL: Final = 0.05
NO_SIGNAL: Final = "No signal found"
NO_GAIN: Final = "No clear gain"


def of_expression(name: str, model: Mapping[str, Any]) -> str:
    """Return whether expression orders patients better than chance.

    Parameters
    ----------
    name
        Of the model.
    model
        Its figures, with ``c`` and ``p`` of the permuted outcomes.
    """
    said = f"C {figure(model['c'])}"
    if model["p"] is None:
        return f"Not tested: {name} reached {said}; without permutations nothing is known of chance."
    p = model["p"]["c"]
    if not p <= LEVEL:
        return f"{NO_SIGNAL}: {name} orders patients no better than permuted outcomes allow ({said}, p {p:.3g})."
    return (
        f"Signal in this cohort: {name} orders patients better than permuted outcomes allow ({said}, p {p:.3g}). It is "
        "no evidence of use in other cohorts."
    )


def of_gain(name: str, gain: Mapping[str, Any]) -> str:
    """Return whether expression adds to the covariates.

    Parameters
    ----------
    name
        Of the model with expression.
    gain
        ``delta_c`` with its interval, ``p`` of the permuted genes or None.
    """
    delta, p = gain["delta_c"], gain["p"]
    said = f"C {figure(delta, signed=True)}" + ("" if p is None else f", p {p['delta_c']:.3g}")
    ci = delta["ci"]
    clear = ci is not None and ci[0] > 0 and (p is None or p["delta_c"] <= LEVEL)
    if not clear:
        return f"{NO_GAIN} of {name} over the covariates alone ({said})."
    return f"Gain of {name} over the covariates alone in this cohort ({said})."


def figure(value: Mapping[str, Any], *, signed: bool = False) -> str:
    """Return a figure with its interval, ``0.641 [0.590, 0.690]``; a dash where there is none."""
    if value["value"] is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    if value["ci"] is None:
        return f"{value['value']:{form}}"
    low, high = value["ci"]
    return f"{value['value']:{form}} [{low:{form}}, {high:{form}}]"
