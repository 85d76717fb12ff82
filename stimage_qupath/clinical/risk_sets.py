"""The partial likelihood of Cox's model: its value, gradient and Hessian for many linear predictors at once.

Symbols: patients ``i`` with linear predictor ``eta_i`` and hazard ratio ``w_i = exp(eta_i)``; ``T_g`` the distinct
event times of a stratum, ``m_g`` events at each; ``S_g`` the sum of ``w`` over those still at risk at ``T_g``, ``E_g``
over those with the event then. Each event is one term with the denominator ``D_t = S_g - c_t E_g``, where ``c_t`` is 0
after Breslow (1974, Biometrics 30) and 0, 1/m, ..., (m - 1)/m after Efron (1977, J. Am. Stat. Assoc. 72), so that

``loglik = sum_events eta - sum_t log D_t``, and with ``a_i = sum_{t: T_t <= t_i} 1/D_t - [event] sum_{t at T_i}
c_t/D_t`` the gradient for column ``x`` is ``sum_i x_i r_i``, ``r_i = event_i - w_i a_i`` (the martingale residual;
Therneau, Grambsch and Fleming 1990, Biometrika 77).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Index = NDArray[np.intp]
Ties = Literal["efron", "breslow"]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Cox's partial likelihood at one or several linear predictors.

    Attributes
    ----------
    value
        (predictor,) log partial likelihood.
    residuals
        (patient, predictor) martingale residuals; the gradient for columns ``x`` is ``x.T @ residuals``.
    """

    value: Float
    residuals: Float


@dataclass(frozen=True, slots=True)
class RiskSets:
    """Who is at risk when, for one set of patients.

    Attributes
    ----------
    order
        (patient,) patients by stratum, then time.
    event
        (patient,) whether the event was observed, in the given order.
    starts
        (bin,) where each bin of ``order`` begins; bins lie between event times, the first of a stratum before its
        first.
    slices
        First and last bin of each stratum.
    time_bin
        (event time,) the bin that begins with each distinct event time.
    event_time, event_stratum
        (event time,) the distinct event times, and the stratum of each.
    bin_of
        (patient,) bin of each patient, in the given order.
    term_time
        (event,) index of the event time of each term.
    term_start
        (event time,) first term of each event time.
    term_share
        (event,) ``c_t``.
    tied
        Whether any ``c_t`` is above 0.
    """

    order: Index
    event: Bool
    starts: Index
    slices: tuple[tuple[int, int], ...]
    time_bin: Index
    event_time: Float
    event_stratum: Index
    bin_of: Index
    term_time: Index
    term_start: Index
    term_share: Float
    tied: bool

    @classmethod
    def of(cls, time: Float, event: Bool, *, strata: Index | None = None, ties: Ties = "efron") -> Self:
        """Sort patients.

        Parameters
        ----------
        time, event
            (patient,) time to the event or to the end of follow-up, and which of the two it is. A patient censored at
            an event time is still at risk then.
        strata
            (patient,) stratum of each; patients are compared within a stratum alone.
        ties
            How events at the same time share the risk set.
        """
        stratum = np.zeros(len(time), dtype=np.intp) if strata is None else strata
        order = np.lexsort((~event, time, stratum))
        time_o, event_o, stratum_o = time[order], event[order], stratum[order]
        new_stratum = np.ones(len(time), dtype=bool)
        new_stratum[1:] = stratum_o[1:] != stratum_o[:-1]
        new_time = new_stratum.copy()
        new_time[1:] |= time_o[1:] != time_o[:-1]
        first_event = new_time & event_o  # events are first among equals
        bin_o = np.cumsum(new_stratum | first_event) - 1
        starts = np.flatnonzero(new_stratum | first_event)
        time_bin = bin_o[first_event]
        edges = [*bin_o[new_stratum].tolist(), len(starts)]
        bin_of = np.empty(len(time), dtype=np.intp)
        bin_of[order] = bin_o
        tied = np.bincount(bin_o[event_o], minlength=len(starts))[time_bin]
        term_start = np.cumsum(tied) - tied
        share = np.zeros(int(tied.sum()))
        if ties == "efron" and len(share):
            share = (np.arange(len(share)) - np.repeat(term_start, tied)) / np.repeat(tied, tied)
        return cls(
            order=order,
            event=event,
            starts=starts,
            slices=tuple(pairwise(edges)),
            time_bin=time_bin,
            event_time=time_o[first_event],
            event_stratum=stratum_o[first_event],
            bin_of=bin_of,
            term_time=np.repeat(np.arange(len(tied)), tied),
            term_start=term_start,
            term_share=share,
            tied=bool(share.any()),
        )

    @property
    def events(self) -> int:
        """Number of observed events."""
        return len(self.term_time)

    def likelihood(self, eta: Float) -> Likelihood:
        """Return the partial likelihood at linear predictors, (patient, predictor)."""
        top = eta.max(axis=0)  # cancels in every ratio; keeps exp finite
        w = np.exp(eta - top)
        at_risk, at_time = self._sums(w)
        denominator = at_risk[self.term_time] - self.term_share[:, None] * at_time[self.term_time]
        with np.errstate(divide="ignore", invalid="ignore"):  # a step too far gives -inf or NaN, and is halved
            value = eta[self.event].sum(axis=0) - np.log(denominator).sum(axis=0) - self.events * top
            return Likelihood(value, self.event[:, None] - w * self._hazard_of(1 / denominator))

    def hessian(self, eta: Float, x: Float) -> Float:
        """Return minus the second derivative for columns ``x`` (patient, column) at one ``eta`` (patient,)."""
        weight, mean = self.curvature(eta, x)
        return np.asarray((x * weight[:, None]).T @ x - mean.T @ mean)

    def curvature(self, eta: Float, x: Float) -> tuple[Float, Float]:
        """Return the parts of the Hessian ``x.T @ diag(weight) @ x - mean.T @ mean``.

        Returns
        -------
        tuple
            ``weight`` (patient,) and ``mean`` (event, column), the mean of ``x`` over each event's risk set.
        """
        w = np.exp(eta - eta.max())[:, None]
        at_risk, at_time = self._sums(w)
        denominator = at_risk[self.term_time] - self.term_share[:, None] * at_time[self.term_time]
        x_at_risk, x_at_time = self._sums(w * x)
        mean = x_at_risk[self.term_time] - self.term_share[:, None] * x_at_time[self.term_time]
        mean /= denominator
        return (w * self._hazard_of(1 / denominator))[:, 0], mean

    def baseline_steps(self, eta: Float) -> Float:
        """Return the jump of the cumulative baseline hazard at each event time, (event time,), for ``eta`` (patient,).

        Breslow's estimator with the denominators of this handling of ties.
        """
        top = eta.max()
        at_risk, at_time = self._sums(np.exp(eta - top)[:, None])
        denominator = at_risk[self.term_time] - self.term_share[:, None] * at_time[self.term_time]
        jumps = np.zeros(len(self.time_bin))
        np.add.at(jumps, self.term_time, 1 / denominator[:, 0])
        return np.asarray(jumps * np.exp(-top))

    def _sums(self, w: Float) -> tuple[Float, Float]:
        """Return the sums of ``w`` over those at risk, and over those with the event, (event time, column) each."""
        in_bin = np.add.reduceat(w[self.order], self.starts, axis=0)
        for first, stop in self.slices:
            in_bin[first:stop] = np.cumsum(in_bin[first:stop][::-1], axis=0)[::-1]
        if not self.tied:
            return in_bin[self.time_bin], np.zeros_like(in_bin[self.time_bin])
        with_event = np.where(self.event[:, None], w, 0.0)[self.order]
        return in_bin[self.time_bin], np.add.reduceat(with_event, self.starts, axis=0)[self.time_bin]

    def _hazard_of(self, inverse: Float) -> Float:
        """Return ``a_i`` for terms ``1 / D_t``, (patient, column)."""
        steps = np.zeros((len(self.starts), inverse.shape[1]))
        if self.events:
            steps[self.time_bin] = np.add.reduceat(inverse, self.term_start, axis=0)
        for first, stop in self.slices:
            steps[first:stop] = np.cumsum(steps[first:stop], axis=0)
        hazard = steps[self.bin_of]
        if self.tied:
            own = np.zeros_like(steps)
            own[self.time_bin] = np.add.reduceat(self.term_share[:, None] * inverse, self.term_start, axis=0)
            hazard -= np.where(self.event[:, None], own[self.bin_of], 0.0)
        return hazard
