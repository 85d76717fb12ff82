"""Published signatures of patients: by hand, and what uncertainty makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stimage_qupath.clinical.signatures.gene70 import Gene70
from stimage_qupath.clinical.signatures.linear import Linear, rescaled_by_grade
from stimage_qupath.clinical.signatures.of_cohort import score_cohort
from stimage_qupath.clinical.signatures.pam50 import SUBTYPES, Pam50
from stimage_qupath.clinical.signatures.recurrence_21 import GENES, RecurrenceScore
from stimage_qupath.errors import UsageError
from stimage_qupath.signatures.definition import Signature
from stimage_qupath.signatures.library import data_rows

REFERENCES = ("ACTB", "GAPDH", "GUSB", "RPLP0", "TFRC")


def expression(**values):
    """Return one patient with reference genes of 5: normalised expression is 5 more than log expression."""
    base = dict.fromkeys(GENES, 0.0) | dict.fromkeys(REFERENCES, 5.0)
    return np.array([[(base | values)[gene] for gene in GENES]])


def recurrence(**values):
    x = expression(**values)
    return RecurrenceScore.of(GENES, x).scores(x)[0]


def test_the_recurrence_score_by_hand_above_its_floors():
    x = {"GRB7": 5.0, "ERBB2": 7.0}  # 10 and 12: HER2 group .9 x 10 + .1 x 12 = 10.2
    x |= {"ESR1": 1.0, "PGR": 0.0, "BCL2": 2.0, "SCUBE2": -1.0}  # 6, 5, 7, 4: (4.8 + 6 + 7 + 4) / 4 = 5.45
    x |= dict.fromkeys(("BIRC5", "MKI67", "MYBL2", "CCNB1"), 3.0) | {"AURKA": 0.5}  # 8 x 4 and 5.5: 7.5
    x |= {"CTSV": 1.0, "MMP11": 2.0, "CD68": 4.0, "GSTM1": 1.0, "BAG1": 2.0}  # 6.5; 9, 6, 7
    unscaled = 0.47 * 10.2 - 0.34 * 5.45 + 1.04 * 7.5 + 0.10 * 6.5 + 0.05 * 9 - 0.08 * 6 - 0.07 * 7
    assert recurrence(**x) == pytest.approx([20 * (unscaled - 6.7), unscaled])
    assert 0 < 20 * (unscaled - 6.7) < 100


def test_the_groups_have_floors_and_the_score_has_ends():
    low = dict.fromkeys(("GRB7", "ERBB2", "BIRC5", "MKI67", "MYBL2", "CCNB1", "AURKA"), -5.0)
    base = 0.47 * 8 - 0.34 * 5 + 1.04 * 6.5 + 0.10 * 5 + 0.05 * 5 - 0.08 * 5 - 0.07 * 5
    assert recurrence(**low)[1] == pytest.approx(base)
    assert recurrence(**dict.fromkeys(low, 10.0))[0] == 100
    assert recurrence(ESR1=40.0)[0] == 0


def test_risk_groups_stand_only_where_no_gene_is_missing():
    positive = dict.fromkeys(("ESR1", "PGR", "BCL2", "SCUBE2"), 5.0)
    x = np.vstack([expression(MKI67=v, BIRC5=v, AURKA=v, CCNB1=v, MYBL2=v, **positive) for v in np.linspace(0, 6, 12)])
    whole = RecurrenceScore.of(GENES, x)
    scores = whole.scores(x)
    words = whole.labels(scores)["oncotype_risk"]
    assert words == ["low" if s < 18 else "intermediate" if s < 31 else "high" for s in scores[:, 0]]
    assert len(set(words)) == 3
    keep = [i for i, gene in enumerate(GENES) if gene != "GSTM1"]
    partial = RecurrenceScore.of([GENES[i] for i in keep], x[:, keep])
    assert partial.missing == ("GSTM1",)
    assert partial.labels(partial.scores(x[:, keep])) == {}
    assert np.abs(partial.scores(x[:, keep])[:, 1] - scores[:, 1]).max() < 0.5


def test_without_references_genes_are_stretched_to_15_over_the_cohort():
    genes = tuple(gene for gene in GENES if gene not in REFERENCES)
    x = np.random.default_rng(0).normal(size=(20, len(genes)))
    fitted = RecurrenceScore.of(genes, x)
    z = fitted.normalised(x)
    assert fitted.needs_cohort
    assert (z.min(axis=0), z.max(axis=0)) == (pytest.approx(0), pytest.approx(15))
    kept = [i for i, gene in enumerate(genes) if gene not in {"BIRC5", "MKI67", "MYBL2", "CCNB1", "AURKA"}]
    with pytest.raises(UsageError, match="none of the group proliferation"):
        RecurrenceScore.of([genes[i] for i in kept], x[:, kept])


def test_a_patient_at_a_centroid_has_its_subtype_and_correlations_are_spearmans():
    rows = data_rows("pam50_centroids.csv")
    genes = [row["gene"] for row in rows]
    centroids = np.array([[float(row[name]) for row in rows] for name in SUBTYPES])
    rng = np.random.default_rng(1)
    x = np.vstack([centroids, -centroids]) * 2 + rng.normal(0, 0.01, (10, 50)) + 7
    fitted = Pam50.of(genes, x)
    scores = fitted.scores(x)
    assert fitted.labels(scores)["pam50_subtype"][:5] == list(SUBTYPES)
    centred = x - np.median(x, axis=0)
    for patient, subtype in ((0, 1), (3, 2)):
        expected = stats.spearmanr(centred[patient], centroids[subtype]).statistic
        assert scores[patient, subtype] == pytest.approx(expected, abs=1e-12)


def test_gene70_is_minus_the_correlation_with_the_good_profile():
    rows = data_rows("gene70.csv")
    profile = np.array([float(row["good_profile"]) for row in rows])
    x = np.vstack([profile, -profile, np.random.default_rng(0).normal(size=70)])
    fitted = Gene70.of([row["reporter"] for row in rows], x)
    scores = fitted.scores(x)[:, 0]
    assert not fitted.needs_cohort
    assert scores == pytest.approx([-1, 1, -stats.pearsonr(x[2], profile).statistic])


def test_a_mean_of_z_scores_by_hand():
    x = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 20.0]])
    fitted = Linear.of(Signature.mean_of("two", "AB", source="hand"), "AB", x, z=True)
    assert fitted.scores(x)[:, 0] == pytest.approx(stats.zscore(x, axis=0).mean(axis=1))
    assert fitted.columns == ("two_score",)


def test_the_grade_index_is_scaled_to_minus_one_and_one():
    found = rescaled_by_grade(np.array([1.0, 3.0, 8.0, 4.0]), np.array([1.0, 1.0, 3.0, 2.0]))
    assert found == pytest.approx([-4 / 3, -2 / 3, 1, -1 / 3])
    with pytest.raises(UsageError, match="grade 1 and of grade 3, found 0 and 1"):
        rescaled_by_grade(np.array([1.0]), np.array([3.0]))


def cohort_of(n, seed=0):
    genes = tuple(row["gene"] for row in data_rows("pam50_centroids.csv"))
    return genes, np.random.default_rng(seed).gamma(2, 3, (n, len(genes)))


def test_the_sd_of_a_linear_score_is_that_of_independent_genes(tmp_path):
    path = tmp_path / "own.gmt"
    path.write_text("pair\t\tERBB2\tESR1\n", encoding="utf-8")
    genes, mean = cohort_of(4)
    mean += 20  # far from 0 the logarithm is straight
    sd = np.full_like(mean, 1.0)
    found = score_cohort([str(path)], genes, mean, sd, draws=4000)
    pair = [genes.index("ERBB2"), genes.index("ESR1")]
    slope = 0.5 / ((1 + mean[:, pair]) * np.log(2))
    assert found.columns["pair_score_sd"] == pytest.approx(np.sqrt((slope**2).sum(axis=1)), rel=0.06)
    assert found.columns["pair_score"] == pytest.approx(np.log2(1 + mean[:, pair]).mean(axis=1))
    certain = score_cohort([str(path)], genes, mean, np.zeros_like(mean))
    assert not certain.columns["pair_score_sd"].any()


def test_calls_are_stable_without_uncertainty_and_shaky_with():
    genes, mean = cohort_of(30)
    sure = score_cohort(["pam50"], genes, mean, np.zeros_like(mean), draws=20).columns
    unsure = score_cohort(["pam50"], genes, mean, mean, draws=20).columns
    assert (sure["pam50_subtype_share"] == 1).all()
    assert unsure["pam50_subtype_share"].mean() < 0.8
    assert set(sure["pam50_subtype"]) <= set(SUBTYPES)
    assert "pam50_proliferation_score" in sure


def test_what_needs_a_cohort_or_other_genes_is_left_out_with_the_reason():
    genes, mean = cohort_of(9)
    found = score_cohort(["pam50", "gene70", "pam50-proliferation"], genes, mean, np.zeros_like(mean))
    assert list(found.record) == ["PAM50 proliferation"]
    assert found.warnings[0].startswith("signature 'pam50' is left out: expected at least 10 patients")
    assert "named genes of gene70" in found.warnings[1]
    with pytest.raises(UsageError, match="found 'endopredict'"):
        score_cohort(["endopredict"], genes, mean, mean)
