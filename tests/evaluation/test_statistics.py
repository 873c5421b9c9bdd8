"""Numbers against scikit-learn, scipy and hand-worked cases; intervals against simulated truth."""

import re

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from smsa.errors import UserError
from smsa.evaluation import statistics
from smsa.evaluation.statistics import (
    METRICS,
    bootstrap,
    bounded,
    compare,
    count_confusion,
    describe_comparison,
    score_confusion,
)
from smsa.training.metrics import score_label_ids

METRIC_FUNCTIONS = {"f1": f1_score, "recall": recall_score, "precision": precision_score}
CASES = {
    "mixed": ([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2]),
    "an absent label": ([0, 0, 2], [0, 2, 2]),
    "a label that is only predicted": ([0, 0, 2], [1, 1, 2]),
    "one row": ([1], [1]),
    "one row, wrong": ([1], [2]),
    "all wrong": ([0, 1, 2], [1, 2, 0]),
    "all right": ([0, 1, 2], [0, 1, 2]),
}


@pytest.mark.parametrize("gold, predicted", CASES.values(), ids=CASES)
def test_scores_are_those_of_scikit_learn(gold, predicted):
    confusion = count_confusion(np.array(gold), np.array(predicted), 3)
    scores, by_label = score_confusion(confusion), statistics.score_labels(confusion)
    assert scores["accuracy"] == accuracy_score(gold, predicted)
    for name, function in METRIC_FUNCTIONS.items():
        expected = function(gold, predicted, labels=range(3), average=None, zero_division=0)
        assert by_label[name] == pytest.approx(expected)
        assert scores[name] == pytest.approx(expected.mean())
    assert {name: float(scores[name]) for name in METRICS} == pytest.approx(
        {name: score_label_ids(predicted, gold)[name] for name in METRICS}
    )


def test_resamples_keep_the_count_of_each_gold_label():
    counts = np.array([[5, 1, 0], [0, 0, 0], [2, 2, 9]])
    drawn = statistics.resample(counts, seed=0, n_resamples=500)
    assert drawn.shape == (500, 3, 3)
    assert (drawn.sum(-1) == counts.sum(-1)).all()
    assert drawn.mean(0) == pytest.approx(counts, abs=0.3)
    assert (statistics.resample(counts, seed=0, n_resamples=500) == drawn).all()
    assert not (statistics.resample(counts, seed=1, n_resamples=500) == drawn).all()


def test_drawing_counts_is_drawing_texts():
    """Against a bootstrap that really draws texts."""
    generator = np.random.default_rng(0)
    gold = np.repeat([0, 1, 2], [60, 20, 40])
    predicted = np.where(generator.random(120) < 0.8, gold, (gold + 1) % 3)
    by_text = []
    for _ in range(4000):
        drawn = np.concatenate(
            [generator.choice(np.flatnonzero(gold == label), (gold == label).sum()) for label in range(3)]
        )
        by_text.append(float(score_confusion(count_confusion(gold[drawn], predicted[drawn], 3))["f1"]))
    low, high = bootstrap(count_confusion(gold, predicted, 3))["f1"]
    assert (low, high) == pytest.approx(np.quantile(by_text, [0.025, 0.975]), abs=0.006)


def test_an_interval_of_accuracy_is_that_of_the_binomial_distribution():
    low, high = bootstrap(np.array([[80, 20, 0], [0, 0, 0], [0, 0, 0]]))["accuracy"]
    assert (low, high) == pytest.approx(binom.ppf([0.025, 0.975], 100, 0.8) / 100, abs=0.011)
    assert bootstrap(np.diag([3, 4, 5]))["f1"] == (1.0, 1.0)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """1,000 files of SmSA's test counts, from a model with the per-label errors of published ones."""
    counts = np.array([208, 88, 204])
    truth_rows = np.array([[0.92, 0.05, 0.03], [0.11, 0.78, 0.11], [0.02, 0.03, 0.95]])
    other_rows = np.array([[0.90, 0.06, 0.04], [0.14, 0.72, 0.14], [0.04, 0.03, 0.93]])
    truth = score_confusion(counts[:, None] * truth_rows)
    other = score_confusion(counts[:, None] * other_rows)
    generator = np.random.default_rng(1)
    gold = np.repeat(range(3), counts)
    covered, covered_difference, n_files = dict.fromkeys(METRICS, 0), 0, 1000
    for i in range(n_files):
        a = np.array([generator.choice(3, p=truth_rows[label]) for label in gold])
        b = np.array([generator.choice(3, p=other_rows[label]) for label in gold])
        intervals = bootstrap(count_confusion(gold, a, 3), seed=i, n_resamples=1000)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
        f1 = compare(gold, a, b, 3, seed=i, n_resamples=1000)["differences"]["f1"]
        covered_difference += f1["low"] <= truth["f1"] - other["f1"] <= f1["high"]
    # the rate over 1,000 files has a standard error of 0.7 points
    for name, n_covered in [*covered.items(), ("difference", covered_difference)]:
        assert 0.93 <= n_covered / n_files <= 0.97, (name, n_covered)


def test_a_comparison_is_right_by_hand():
    gold = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    a = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    b = np.array([0, 0, 1, 1, 1, 0, 0, 1])
    compared, mirrored, same = compare(gold, a, b, 2), compare(gold, b, a, 2), compare(gold, a, a, 2)
    # exact McNemar: the chance of a split as uneven as 4 to 1 is 2 * (5 + 1) / 32
    assert compared["mcnemar"] == {"only_a_right": 4, "only_b_right": 1, "p_value": pytest.approx(12 / 32)}
    assert compared["differences"]["accuracy"]["value"] == pytest.approx(3 / 8)
    assert compared["differences"]["f1"]["value"] == pytest.approx(
        f1_score(gold, a, average="macro") - f1_score(gold, b, average="macro")
    )
    for name in METRICS:
        assert mirrored["differences"][name]["value"] == pytest.approx(-compared["differences"][name]["value"])
        assert same["differences"][name] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert same["mcnemar"]["p_value"] == 1.0


def test_a_comparison_is_made_in_pairs():
    """Two systems that share most of their errors, against a bootstrap that draws texts one by one."""
    generator = np.random.default_rng(3)
    gold = np.repeat([0, 1, 2], [120, 60, 120])
    shared = np.where(generator.random(300) < 0.3, generator.integers(0, 3, 300), gold)
    a = np.where(generator.random(300) < 0.03, generator.integers(0, 3, 300), shared)
    b = np.where(generator.random(300) < 0.06, generator.integers(0, 3, 300), shared)
    f1 = compare(gold, a, b, 3)["differences"]["f1"]
    differences = []
    for _ in range(3000):
        drawn = np.concatenate(
            [generator.choice(np.flatnonzero(gold == label), (gold == label).sum()) for label in range(3)]
        )
        scores = [score_confusion(count_confusion(gold[drawn], x[drawn], 3))["f1"] for x in (a, b)]
        differences.append(scores[0] - scores[1])
    expected = np.quantile(differences, [0.025, 0.975])
    width = expected[1] - expected[0]
    assert (f1["low"], f1["high"]) == pytest.approx(expected, abs=0.1 * width)
    alone = [bootstrap(count_confusion(gold, x, 3))["f1"] for x in (a, b)]
    assert width < 0.6 * (alone[0][1] - alone[0][0])  # the shared errors cancel out


def test_mcnemar_is_that_of_statsmodels_table():
    """Values of statsmodels 0.14 `mcnemar([[101, 121], [59, 33]], exact=True)`, from its documentation."""
    gold = np.zeros(314, dtype=int)
    a = np.repeat([0, 0, 1, 1], [101, 121, 59, 33])
    b = np.repeat([0, 1, 0, 1], [101, 121, 59, 33])
    mcnemar = compare(gold, a, b, 2, n_resamples=10)["mcnemar"]
    assert mcnemar == {"only_a_right": 121, "only_b_right": 59, "p_value": pytest.approx(4.434446e-06, rel=1e-4)}


@pytest.mark.parametrize(
    ("f1", "sentence"),
    [
        ((0.02, 0.001, 0.03), "A is ahead of B by 2.0 points of macro F1 (95 % interval 0.1 to 3.0)."),
        ((-0.02, -0.03, -0.001), "B is ahead of A by 2.0 points of macro F1 (95 % interval 0.1 to 3.0)."),
        ((0.02, -0.005, 0.03), "A is ahead .* -0.5 to 3.0.: not told apart by these 9 texts."),
        ((0.02, 0.0, 0.03), "A is ahead .* 0.0 to 3.0.: not told apart by these 9 texts."),
        ((-0.02, -0.03, 0.0), "B is ahead .* 0.0 to 3.0.: not told apart by these 9 texts."),
        ((0.02, 0.02, 0.02), "A is ahead .*: these 9 texts cannot show how much others would differ."),
        ((0.0, 0.0, 0.0), "A and B have the same macro F1 on these 9 texts."),
        ((-0.0001, -0.012, 0.01), "A and B have the same macro F1, within 1.2 points .95 % interval.."),
    ],
)
def test_a_sentence_says_who_is_ahead_and_only_an_interval_above_zero_tells_two_apart(f1, sentence):
    described = describe_comparison("A", "B", bounded(f1[0], f1[1:]), 9)
    assert re.fullmatch(sentence.replace("(", r"\(").replace(")", r"\)"), described), described


def test_calibration_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    found = statistics.measure_calibration(np.array([0, 1, 1, 1]), probabilities, n_bins=10)
    assert [(bin_["n"], bin_["accuracy"]) for bin_ in found["bins"]] == [(1, 1.0), (2, 0.5), (1, 1.0)]
    assert [bin_["confidence"] for bin_ in found["bins"]] == pytest.approx([0.6, 0.9, 1.0])  # 0.9 closes its bin
    assert found["expected_calibration_error"] == pytest.approx((1 * 0.4 + 2 * 0.4 + 1 * 0.0) / 4)


def test_confidence_is_measured_on_the_probabilities_of_logits():
    gold, labels = np.array([0, 0, 1, 2]), ("positive", "neutral", "negative")
    logits = np.array([[2, 0, 0], [0, 1, 0], [0, 3, 0], [0, 0, 4]], dtype=np.float32)
    found = statistics.measure_confidence(gold, logits, labels)
    assert found["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["intervals"] == bootstrap(np.array(found["confusion"]), labels=labels)
    assert found["intervals"].keys() == {*METRICS, "f1_positive", "f1_neutral", "f1_negative"}
    probabilities = torch.tensor(logits).double().softmax(-1).numpy()
    calibration = statistics.measure_calibration(gold, probabilities)
    assert found["expected_calibration_error"] == pytest.approx(calibration["expected_calibration_error"])


def test_intervals_are_those_of_the_metrics_they_are_named_for():
    confusion = np.array([[50, 10, 0], [3, 30, 7], [1, 1, 60]])
    drawn = statistics.resample(confusion, seed=0)
    expected = {f"f1_{label}": f1 for label, f1 in zip("abc", statistics.score_labels(drawn)["f1"].T, strict=True)}
    expected |= score_confusion(drawn)
    found = bootstrap(confusion, labels=("a", "b", "c"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.quantile(values, [0.025, 0.975])), name


def test_temperature_is_found_again():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (4000, 3))
    gold = np.array([generator.choice(3, p=torch.tensor(row).softmax(-1).numpy()) for row in logits])
    for sharpness in (0.5, 1.0, 3.0):
        probabilities = torch.tensor(logits * sharpness).softmax(-1).numpy()
        temperature = statistics.fit_temperature(gold, probabilities)
        assert temperature == pytest.approx(sharpness, rel=0.06)
        scaled = torch.tensor(logits * sharpness / temperature).softmax(-1).numpy()
        before, after = (
            statistics.measure_calibration(gold, p)["expected_calibration_error"] for p in (probabilities, scaled)
        )
        assert after < 0.03 and (sharpness == 1.0 or after < before)


def test_temperature_of_certain_and_of_useless_models_is_refused():
    certain = np.eye(3)[[0, 1, 2, 0]]
    for gold in ([0, 1, 2, 0], [1, 2, 0, 1]):
        share = f"{np.mean(np.array(gold) == [0, 1, 2, 0]):.0%}"
        with pytest.raises(UserError, match=f"4 texts of which {share} are predicted as gold set no temperature"):
            statistics.fit_temperature(np.array(gold), certain * 0.7 + 0.1)
