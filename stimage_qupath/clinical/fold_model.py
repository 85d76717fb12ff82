"""A fitted Cox model with all that is needed to judge a patient whom it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stimage_qupath.clinical.gene_filter import FeatureTable
from stimage_qupath.clinical.risk_sets import RiskSets

Float = NDArray[np.float64]
Index = NDArray[np.intp]

NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Scaling:
    """Mean and SD of columns on some patients, in the units of the tables; an SD of 0: the column is left out.

    Attributes
    ----------
    covariate_mean, covariate_sd
        (covariate,).
    gene_mean, gene_sd
        (gene,).
    """

    covariate_mean: Float
    covariate_sd: Float
    gene_mean: Float
    gene_sd: Float

    @classmethod
    def of_subsets(cls, genes: FeatureTable | None, covariates: FeatureTable | None, members: Float) -> list[Self]:
        """Return the scaling of each subset, see :meth:`FeatureTable.moments`."""
        nothing = np.zeros((len(members), 0))
        c_mean, c_sd = (nothing, nothing) if covariates is None else covariates.moments(members)
        g_mean, g_sd = (nothing, nothing) if genes is None else genes.moments(members)
        return [cls(*parts) for parts in zip(c_mean, c_sd, g_mean, g_sd, strict=True)]

    def columns(
        self, genes: FeatureTable | None, covariates: FeatureTable | None, features: Index, rows: Index
    ) -> Float:
        """Return scaled covariates, then scaled genes at ``features``, (row, column)."""
        parts = []
        if covariates is not None:
            parts.append(covariates.columns(rows, self.used_covariates, self.covariate_mean, self.covariate_sd))
        if genes is not None and len(features):
            parts.append(genes.columns(rows, features, self.gene_mean, self.gene_sd))
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))

    @property
    def used_covariates(self) -> Index:
        """Covariates that vary."""
        return np.flatnonzero(self.covariate_sd > 0)

    def kept(self, features: Index, genes: FeatureTable | None, covariates: FeatureTable | None) -> Scaling:
        """Return the scaling of the columns of a model, in the units of the data."""
        used = self.used_covariates
        c_mean, c_sd = self.covariate_mean[used], self.covariate_sd[used]
        g_mean, g_sd = self.gene_mean[features], self.gene_sd[features]
        if covariates is not None:
            c_mean = covariates.centre[used] + covariates.scale[used] * c_mean
            c_sd = covariates.scale[used] * c_sd
        if genes is not None:
            g_mean = genes.centre[features] + genes.scale[features] * g_mean
            g_sd = genes.scale[features] * g_sd
        return Scaling(c_mean, c_sd, g_mean, g_sd)


@dataclass(frozen=True, slots=True)
class FoldModel:
    """A Cox model of one set of training patients.

    Attributes
    ----------
    covariates, features
        Columns of the tables of covariates and of features that it uses.
    coef
        Log hazard ratio of one SD of each: covariates, then features.
    scaling
        Mean and SD of those columns among the training patients, in the units of the data.
    centre, spread
        Mean and SD of the training patients' linear predictors; spread is 0 for a model that tells nobody apart.
    tuning
        The prior spread (ridge) or fraction (elastic net) that was chosen; None without features.
    cut, cut_quantile
        Standardised risk above which a patient is high, and the quantile of inner held-out patients that it was.
    event_time, event_stratum, hazard_steps
        (event time,) jumps of the cumulative baseline hazard for the mean training patient.
    """

    covariates: Index
    features: Index
    coef: Float
    scaling: Scaling
    centre: float
    spread: float
    tuning: float | None
    cut: float
    cut_quantile: float
    event_time: Float
    event_stratum: Index
    hazard_steps: Float

    @classmethod
    def of(
        cls,
        *,
        coef: Float,
        eta: Float,
        sets: RiskSets,
        scaling: Scaling,
        features: Index,
        covariates: Index,
        tuning: float | None,
        cut: float,
        cut_quantile: float,
    ) -> Self:
        """Keep a fit; ``eta`` are the training patients' linear predictors."""
        spread = float(eta.std()) if len(coef) else 0.0
        centre = float(eta.mean()) if len(coef) else 0.0
        return cls(
            covariates=covariates,
            features=features,
            coef=coef,
            scaling=scaling,
            centre=centre,
            spread=spread if spread > NO_SPREAD else 0.0,
            tuning=tuning,
            cut=cut,
            cut_quantile=cut_quantile,
            event_time=sets.event_time,
            event_stratum=sets.event_stratum,
            hazard_steps=sets.baseline_steps(eta - centre),
        )

    def linear_predictor(self, genes: Float, covariates: Float) -> Float:
        """Return log hazard ratios against the mean training patient, (patient,).

        Parameters
        ----------
        genes
            (patient, gene) every feature of the table, in its units; NaN counts as the training mean.
        covariates
            (patient, covariate) likewise.
        """
        x = np.concatenate([covariates[:, self.covariates], genes[:, self.features]], axis=1)
        mean = np.concatenate([self.scaling.covariate_mean, self.scaling.gene_mean])
        sd = np.concatenate([self.scaling.covariate_sd, self.scaling.gene_sd])
        return np.asarray(np.nan_to_num((x - mean) / sd) @ self.coef - self.centre)

    def risk(self, linear_predictor: Float) -> Float:
        """Return linear predictors in units of the training patients' SD; 0 where the model tells nobody apart."""
        return linear_predictor / self.spread if self.spread else np.zeros_like(linear_predictor)

    def survival(self, linear_predictor: Float, strata: Index, horizon: float) -> Float:
        """Return the probability of no event until ``horizon``, (patient,)."""
        early = self.event_time <= horizon
        most = int(max(strata.max(initial=0), self.event_stratum.max(initial=0))) + 1
        hazard = np.bincount(self.event_stratum[early], weights=self.hazard_steps[early], minlength=most)
        return np.asarray(np.exp(-hazard[strata] * np.exp(linear_predictor)))
