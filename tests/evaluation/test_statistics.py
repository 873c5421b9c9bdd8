"""Numbers against scikit-learn, scipy and hand-worked cases; intervals against simulated truth."""

from functools import partial

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, f1_score

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation import statistics
from smsa.evaluation.statistics import METRICS, bootstrap, compare, score_present


def resample(counts, seed=0) -> list[np.ndarray]:
    """Return what `bootstrap` draws, part by part."""
    drawn = []
    bootstrap(counts, lambda part: drawn.append(part) or {"n": part.sum((-2, -1))}, seed)
    return drawn[:-1]  # the last are the counts themselves


@pytest.mark.parametrize("max_counts", [statistics.MAX_COUNTS, 30_000])
def test_resamples_keep_the_count_of_each_gold_label_also_drawn_in_parts_that_fit_into_memory(monkeypatch, max_counts):
    monkeypatch.setattr(statistics, "MAX_COUNTS", max_counts)
    counts = np.array([[5, 1, 0], [0, 0, 0], [2, 2, 9]])
    assert all(part.size <= max_counts for part in resample(counts))
    drawn, again, other = (np.concatenate(resample(counts, seed)) for seed in (0, 0, 1))
    assert drawn.shape == (10_000, 3, 3) and np.array_equal(drawn, again) and not np.array_equal(drawn, other)
    assert (drawn.sum(-1) == counts.sum(-1)).all() and drawn.mean(0) == pytest.approx(counts, abs=0.1)


def test_intervals_are_those_of_the_scores_they_are_named_for():
    confusion, score = np.array([[50, 10, 0], [3, 30, 7], [1, 1, 60]]), partial(score_present, labels=LABELS)
    resampled = score(np.concatenate(resample(confusion)))
    for name, found in bootstrap(confusion, score).items():
        assert [found["low"], found["high"]] == pytest.approx(np.quantile(resampled[name], [0.025, 0.975])), name
    accuracy = bootstrap(np.array([[80, 20, 0], [0, 0, 0], [0, 0, 0]]))["accuracy"]
    of_binomial = binom.ppf([0.025, 0.975], 100, 0.8) / 100
    assert [accuracy["low"], accuracy["high"]] == pytest.approx(of_binomial, abs=0.011)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch):
    """1,000 files of SmSA's test counts, from a model with the per-label errors of published ones."""
    monkeypatch.setattr(statistics, "N_RESAMPLES", 1000)
    counts = np.array([208, 88, 204])
    truth_rows = np.array([[0.92, 0.05, 0.03], [0.11, 0.78, 0.11], [0.02, 0.03, 0.95]])
    other_rows = np.array([[0.90, 0.06, 0.04], [0.14, 0.72, 0.14], [0.04, 0.03, 0.93]])
    truth, other = (score_present(counts[:, None] * rows) for rows in (truth_rows, other_rows))
    generator = np.random.default_rng(1)
    gold = np.repeat(range(3), counts)
    covered, n_files = dict.fromkeys((*METRICS, "difference"), 0), 1000
    for i in range(n_files):
        draws = generator.random((2, len(gold), 1))
        a, b = ((draw > rows[gold].cumsum(-1)).sum(-1) for draw, rows in zip(draws, (truth_rows, other_rows)))
        found = bootstrap(confusion_matrix(gold, a, labels=range(3)), seed=i)
        found["difference"] = compare(gold, a, b, 3, seed=i)["differences"]["f1"]
        for name, value in {**truth, "difference": truth["f1"] - other["f1"]}.items():
            covered[name] += found[name]["low"] <= value <= found[name]["high"]
    # the rate over 1,000 files has a standard error of 0.7 points
    for name, n_covered in covered.items():
        assert 0.93 <= n_covered / n_files <= 0.97, (name, n_covered)


def test_a_comparison_is_right_by_hand_and_only_an_interval_beside_zero_says_who_is_ahead():
    gold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    a = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    b = np.array([0, 0, 1, 1, 1, 0, 0, 1])
    compared, same = compare(gold, a, b, 2), compare(gold, a, a, 2)
    # exact McNemar: the chance of a split as uneven as 4 to 1 is 2 * (5 + 1) / 32
    assert compared["mcnemar"] == {"only_a_right": 4, "only_b_right": 1, "p_value": pytest.approx(12 / 32)}
    assert compared["differences"]["accuracy"]["value"] == pytest.approx(3 / 8)
    ahead = f1_score(gold, a, average="macro") - f1_score(gold, b, average="macro")
    assert compared["differences"]["f1"]["value"] == pytest.approx(ahead)
    assert same["differences"] == dict.fromkeys(METRICS, {"value": 0.0, "low": 0.0, "high": 0.0})
    assert same["mcnemar"]["p_value"] == 1.0
    for low, high, told in ((1, 3, "A is ahead"), (-3, -1, "B is ahead"), (-1, 3, "not told apart by these 9 texts")):
        f1 = {"value": 0.02, "low": low / 100, "high": high / 100}
        said = statistics.describe_comparison("A", "B", f1, 9)
        assert f"+2.0 points of macro F1 (95 % interval {low:+.1f} to {high:+.1f}), {told}." in said


def test_calibration_by_hand(monkeypatch):
    monkeypatch.setattr(statistics, "N_BINS", 10)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    found = statistics.measure_calibration(np.array([0, 1, 1, 1]), probabilities)
    assert [(bin_["n"], bin_["accuracy"]) for bin_ in found["bins"]] == [(1, 1.0), (2, 0.5), (1, 1.0)]
    assert [bin_["confidence"] for bin_ in found["bins"]] == pytest.approx([0.6, 0.9, 1.0])  # 0.9 closes its bin
    assert found["expected_calibration_error"] == pytest.approx((1 * 0.4 + 2 * 0.4 + 1 * 0.0) / 4)


def test_temperature_is_found_again_and_refused_of_certain_and_of_useless_models():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (4000, 3))
    gold = np.array([generator.choice(3, p=row) for row in softmax(logits, axis=-1)])
    for sharpness in (0.5, 1.0, 3.0):
        temperature = statistics.fit_temperature(gold, softmax(logits * sharpness, axis=-1))
        assert temperature == pytest.approx(sharpness, rel=0.06)
    for gold, share in (([0, 1, 2, 0], "100%"), ([1, 2, 0, 1], "0%")):
        with pytest.raises(UserError, match=f"4 texts, of which {share} are predicted as gold, determine no"):
            statistics.fit_temperature(np.array(gold), np.eye(3)[[0, 1, 2, 0]] * 0.7 + 0.1)
