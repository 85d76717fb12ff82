"""One held-out section, scored: every figure of the protocol for the model and for what it has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.models.checks import collapsed_ensemble, constant_output
from stimage_qupath.models.ensemble import Ensemble
from stimage_qupath.models.negative_binomial import LOG_MEAN_RANGE
from stimage_qupath.pipeline.high import HighBaselines, score_high
from stimage_qupath.pipeline.spot_patterns import SpotPatterns, spot_patterns
from stimage_qupath.results import Panel
from stimage_qupath.training.dataset import EncodedSection
from stimage_qupath.validation.baselines import BaselinePrediction, FittedBaselines, Spots
from stimage_qupath.validation.bootstrap import Interval
from stimage_qupath.validation.calibration import calibration_figures, randomised_pit
from stimage_qupath.validation.expression import LEAST_SHARE_OF_RATE, Measured, Scorer
from stimage_qupath.validation.ood import LIMIT, goes_with_error
from stimage_qupath.validation.predictive import CountMixture, LevelMap, Scored, marginal_over_depth, score_counts
from stimage_qupath.validation.sparsification import RiskCoverage, risk_coverage, squared_pearson

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A section, the ensemble that is scored on it, and the baselines that were fitted without it.

    Attributes
    ----------
    encoded
        The section with its features.
    ensemble
        What is scored.
    rates, reference_total
        Of the training data.
    baselines, test
        Fitted baselines and the section as they see it; None where the model was made without them.
    note
        What training had seen of the section.
    transductive
        Whether the encoder or the heads saw this image.
    high
        Classifiers of high against low; None where there are none.
    """

    encoded: EncodedSection
    ensemble: Ensemble
    rates: Float
    reference_total: float
    baselines: FittedBaselines | None
    test: Spots | None
    note: str
    transductive: bool = False
    high: HighBaselines | None = None

    @property
    def panel(self) -> Panel:
        """Scored genes."""
        return self.ensemble.panel

    @property
    def measured(self) -> Measured:
        """Counts of the scored genes."""
        section = self.encoded.section
        return Measured(section.counts_of(self.panel.genes), section.totals, self.encoded.positions_um)

    @property
    def size(self) -> Float:
        """Depth of each spot in reference depths, (spot,)."""
        return self.encoded.section.totals / self.reference_total


@dataclass(frozen=True, slots=True)
class ScoredSection:
    """Everything known of one section, and the arrays that its report draws.

    Attributes
    ----------
    case
        What was scored.
    figures
        Of the model, as ``evaluation.json`` has them.
    baselines
        Name to figures, each with the model's lead.
    point, leads
        The figures that are averaged over sections: metric to interval, and baseline to those.
    mixture
        Prediction at reference depth.
    residual_pcc
        (1 + replicate, gene).
    pit
        (spot, gene).
    risk
        Sparsification.
    crps
        (gene,) mean.
    patterns
        Patterns in space, or None where there are too few spots.
    """

    case: Case
    figures: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    point: dict[str, Interval]
    baseline_points: dict[str, dict[str, Interval]]
    mixture: CountMixture
    residual_pcc: Float
    pit: Float
    risk: RiskCoverage
    crps: Float
    patterns: SpotPatterns | None = None


def mixture_of(ensemble: Ensemble, features: NDArray[np.float32]) -> CountMixture:
    """Return what the ensemble says of each place at reference depth."""
    log_mean = ensemble.heads.log_mean(ensemble.known(features)).astype(np.float64)
    return CountMixture(np.exp(np.clip(log_mean, *LOG_MEAN_RANGE)), ensemble.total_count[:, None].astype(np.float64))


def level_map_of(ensemble: Ensemble) -> LevelMap:
    """Return the recalibration of distribution functions, gene by gene."""
    return lambda values, genes: ensemble.recalibration.take(genes).cdf(values)


def score_section(case: Case, *, replicates: int, seed: int) -> ScoredSection:
    """Score the model and its baselines on one section.

    Parameters
    ----------
    case
        The section.
    replicates, seed
        Of the bootstrap and the randomised transform.
    """
    scorer = Scorer(case.measured, case.rates, case.reference_total, replicates, seed)
    mixture = mixture_of(case.ensemble, case.encoded.features)
    mean = mixture.expected
    scored = score_counts(mixture.at_depth(case.size), case.measured.counts, level_map=level_map_of(case.ensemble))
    risk = _risk(case, scorer, mixture, seed=seed)
    patterns = spot_patterns(case.measured, case.rates, mean)
    point = scorer.point(mean) | {"crps_mean": scorer.bootstrap.figure(scored.crps)}
    figures = {
        **_said_of(case, scorer, mean),
        **{name: figure.to_dict() for name, figure in point.items()},
        **calibration_figures(scored, case.rates * case.reference_total, seed=seed),
        **_marginal(case, mixture, seed=seed),
        "ause": _ause(risk),
        **_certainty(case, scorer, mixture),
        **_log_counts(case),
        "high": _high(case, mixture, scorer),
        **({} if patterns is None else {"spatial": patterns.figures()}),
        "warnings": constant_output(np.log(mean), case.panel.genes) + collapsed_ensemble(np.log(mixture.mean)),
    }
    baselines, baseline_points = _baselines(case, scorer, point, seed=seed)
    return ScoredSection(
        case=case,
        figures=figures,
        baselines=baselines,
        point=point,
        baseline_points=baseline_points,
        mixture=mixture,
        residual_pcc=scorer.residual_by_gene(mean),
        pit=randomised_pit(scored.cdf, scored.cdf_below, seed=seed),
        risk=risk,
        crps=scored.crps.mean(axis=0),
        patterns=patterns,
    )


def _said_of(case: Case, scorer: Scorer, mean: Float) -> dict[str, Any]:
    return {
        "patient": case.encoded.section.patient,
        "note": case.note,
        "transductive": case.transductive,
        "spots": len(case.encoded.features),
        "genes": len(case.panel),
        "genes_above_0.1": scorer.kept_above(mean),
        "image_sha256": case.encoded.image_sha256,
        "notes": list(case.encoded.section.notes),
    }


def _risk(case: Case, scorer: Scorer, mixture: CountMixture, *, seed: int) -> RiskCoverage:
    errors = squared_pearson(case.measured, mixture.expected, rates=case.rates, reference_total=case.reference_total)
    orders = {"predicted_mean": mixture.expected, "total_sd": np.sqrt(mixture.aleatoric + mixture.epistemic)}
    return risk_coverage(errors, orders, scorer.bootstrap, seed=seed)


def _ause(risk: RiskCoverage) -> dict[str, Any]:
    """Return the area of the total SD first, then the orders it is compared with."""
    return {
        **risk.ause["total_sd"].to_dict(),
        "random": 1.0,
        "predicted_mean": risk.ause["predicted_mean"].to_dict(),
        "lead_over_predicted_mean": risk.lead.to_dict(),
    }


def _marginal(case: Case, mixture: CountMixture, *, seed: int) -> dict[str, Any]:
    """Return the calibration of intervals that are not told the depth, where training's depths are known."""
    if case.baselines is None:
        return {}
    counts = case.measured.counts
    at, below = marginal_over_depth(mixture, counts, case.baselines.sizes, level_map=level_map_of(case.ensemble))
    # Only the transform is asked for here; the scores of the walk are those of the conditional distribution.
    unused = Scored(at, below, np.zeros_like(at), {}, {})
    found = calibration_figures(unused, case.rates * case.reference_total, seed=seed)
    found.pop("plain_coverage")
    return {"marginal_over_depth": found}


def _certainty(case: Case, scorer: Scorer, mixture: CountMixture) -> dict[str, Any]:
    """Return how far out the spots are, and whether that goes with their error."""
    ood = case.ensemble.outliers(case.ensemble.heads.standardise(case.encoded.features)).astype(np.float64)
    errors = squared_pearson(
        case.measured, mixture.expected, rates=case.rates, reference_total=case.reference_total
    ).mean(axis=1)
    scores = {"ood_score": ood, "epistemic_log_sd": mixture.epistemic_log_sd.mean(axis=1)}
    return {
        "outside_training": float((ood > LIMIT).mean()),
        "spearman_with_error": {
            name: goes_with_error(score, errors, scorer.bootstrap).to_dict() for name, score in scores.items()
        },
    }


def _high(case: Case, mixture: CountMixture, scorer: Scorer) -> dict[str, Any]:
    features = None if case.test is None else case.test.features
    counts, size = np.asarray(case.measured.counts, dtype=np.float64), case.size
    return score_high(case.ensemble, mixture, counts, size, features, case.high, scorer.bootstrap)


def _log_counts(case: Case) -> dict[str, Any]:
    """Return the coverage of a negative binomial on log values, for comparison."""
    if case.baselines is None or case.test is None:
        return {}
    found = case.baselines.log_counts.coverage(case.test.features, case.measured.counts)
    return {"nb_on_log1p_coverage": found}


def _baselines(
    case: Case, scorer: Scorer, model: Mapping[str, Interval], *, seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Interval]]]:
    """Return each baseline's figures with the model's lead over it, paired."""
    if case.baselines is None or case.test is None:
        return {}, {}
    figures, points = {}, {}
    for name, prediction in case.baselines.predict(case.test, seed=seed).items():
        scored = _score_baseline(case, case.baselines, prediction)
        point = scorer.point(prediction.mean, predicted_residual=prediction.residual)
        point["crps_mean"] = scorer.bootstrap.figure(scored.crps)
        lead = {metric: model[metric].minus(point[metric]) for metric in model}
        figures[name] = {
            **{metric: figure.to_dict() for metric, figure in point.items()},
            **calibration_figures(scored, case.rates * case.reference_total, seed=seed),
            "model_lead": {metric: figure.to_dict() for metric, figure in lead.items()},
        }
        points[name] = point
    return figures, points


def _score_baseline(case: Case, fitted: FittedBaselines, prediction: BaselinePrediction) -> Scored:
    """Score a baseline's counts as negative binomials about its mean, with training's dispersion of each gene."""
    floor = np.maximum(LEAST_SHARE_OF_RATE * fitted.rates * fitted.reference_total, 1e-9)
    mean = np.maximum(prediction.mean, floor)
    mixture = CountMixture(mean[None], fitted.total_count[None, None])
    return score_counts(mixture.at_depth(case.size), case.measured.counts)
