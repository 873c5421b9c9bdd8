"""Metrics with their uncertainty: bootstrap intervals, paired comparison, calibration.

Texts are resampled within each gold label, so that every resample has the label counts of the file (a stratified
bootstrap). Which texts are drawn does not matter to the metrics, only how many of each gold label fall to each
predicted one; so the counts are drawn, from a multinomial distribution for each gold label, which is the same and much
faster.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from smsa.errors import UserError

N_RESAMPLES = 10_000
LEVEL = 0.95
N_BINS = 15  # Guo et al. 2017, section 3
BOOTSTRAP = {"level": LEVEL, "method": "stratified percentile bootstrap", "resamples": N_RESAMPLES}
METRICS = ("accuracy", "f1", "recall", "precision")


def count_confusion(gold: np.ndarray, predicted: np.ndarray, n_labels: int) -> np.ndarray:
    """Return how many texts of each gold label (rows) were predicted as each label (columns)."""
    return np.bincount(gold * n_labels + predicted, minlength=n_labels**2).reshape(n_labels, n_labels)


def score_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy and macro F1, recall and precision of confusion matrices of shape (..., n_labels, n_labels).

    A label that divides by zero scores 0, as in scikit-learn with `zero_division=0`; so does an absent one.
    """
    n_right = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    macro = {name: values.mean(-1) for name, values in score_labels(confusion).items()}
    return {"accuracy": n_right / confusion.sum((-2, -1)), **macro}


def score_labels(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return F1, recall and precision of each label, of shape (..., n_labels)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    n_gold, n_predicted = confusion.sum(-1), confusion.sum(-2)
    return {
        "f1": _divide(2 * right, n_gold + n_predicted),
        "recall": _divide(right, n_gold),
        "precision": _divide(right, n_predicted),
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)


def resample(counts: np.ndarray, seed: int, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """Draw counts of texts within each gold label, with replacement.

    Args:
        counts: texts by gold label and by outcome, of shape (n_labels, n_outcomes).

    Returns:
        Of shape (n_resamples, n_labels, n_outcomes); each row sums to what that row of `counts` does.
    """
    generator = np.random.default_rng(seed)
    drawn = np.zeros((n_resamples, *counts.shape), dtype=np.int64)
    for label_id, row in enumerate(counts):
        if row.sum():
            drawn[:, label_id] = generator.multinomial(row.sum(), row / row.sum(), size=n_resamples)
    return drawn


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bounded(value: float, ends: tuple[float, float]) -> dict[str, float]:
    """Return a value with the ends of its interval as report.json has them."""
    return {"value": float(value), "low": ends[0], "high": ends[1]}


def bootstrap(
    confusion: np.ndarray, seed: int = 0, n_resamples: int = N_RESAMPLES, labels: tuple[str, ...] = ()
) -> dict[str, tuple[float, float]]:
    """Return the ends of the 95 % interval of each of `METRICS`, and of `f1_<label>` for each of `labels`.

    Where every text of a label was predicted alike, that label does not vary, so that the interval of a perfect result
    has no width: then it says little about other texts.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    drawn = resample(confusion, seed, n_resamples)
    metrics, f1 = score_confusion(drawn), score_labels(drawn)["f1"]  # (n_resamples,), (n_resamples, n_labels)
    of_labels = {f"f1_{label}": interval(f1[:, i]) for i, label in enumerate(labels)}
    return {name: interval(metrics[name]) for name in METRICS} | of_labels


def compare(
    gold: np.ndarray, a: np.ndarray, b: np.ndarray, n_labels: int, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> dict[str, dict]:
    """Compare systems A and B on the same texts.

    Args:
        gold, a, b: label ids of shape (n_texts,): the gold ones, and what each system predicted.
        seed, n_resamples: of the bootstrap.

    Returns:
        `differences`: A minus B in accuracy and the macro metrics, each with `value` and the ends, `low` and `high`, of
        its 95 % interval by paired bootstrap; `mcnemar`: `only_a_right` and `only_b_right`, the texts that only one
        system predicted as gold, and the `p_value` of McNemar's exact test: how likely so uneven a split is if both
        err equally often.

    Source: McNemar 1947; paired bootstrap as in Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091
    """
    outcomes = np.bincount((gold * n_labels + a) * n_labels + b, minlength=n_labels**3).reshape(n_labels, -1)
    drawn = resample(outcomes, seed, n_resamples).reshape(-1, n_labels, n_labels, n_labels)
    drawn_a, drawn_b = score_confusion(drawn.sum(-1)), score_confusion(drawn.sum(-2))
    ours, theirs = (score_confusion(count_confusion(gold, predicted, n_labels)) for predicted in (a, b))
    only_a, only_b = int(((a == gold) & (b != gold)).sum()), int(((b == gold) & (a != gold)).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {
        "differences": {
            name: bounded(ours[name] - theirs[name], interval(drawn_a[name] - drawn_b[name])) for name in METRICS
        },
        "mcnemar": {"only_a_right": only_a, "only_b_right": only_b, "p_value": p_value},
    }


def describe_comparison(a: str, b: str, f1: dict[str, float], n_texts: int) -> str:
    """Return a sentence on who is ahead in macro F1, and whether these texts tell the two apart.

    Args:
        a, b: names of the systems.
        f1: `differences["f1"]` of `compare`.
    """
    points, low, high = (100 * f1[end] for end in ("value", "low", "high"))
    ahead, behind = (a, b) if points >= 0 else (b, a)
    if points < 0:
        points, low, high = -points, -high, -low
    if points == low == high == 0:
        return f"{a} and {b} have the same macro F1 on these {n_texts:,} texts."
    if round(points, 1) == 0 and low < high:
        return f"{a} and {b} have the same macro F1, within {max(-low, high):.1f} points (95 % interval)."
    verdict = "" if low > 0 else f": not told apart by these {n_texts:,} texts"
    if low == high:
        verdict = f": these {n_texts:,} texts cannot show how much others would differ"
    ends = f"{round(low, 1) + 0.0:.1f} to {round(high, 1) + 0.0:.1f}"  # no -0.0
    return f"{ahead} is ahead of {behind} by {points:.1f} points of macro F1 (95 % interval {ends}){verdict}."


def measure_calibration(gold: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> dict[str, object]:
    """Compare the confidence of a system with how often it is right.

    Args:
        gold: label ids of shape (n_texts,).
        probabilities: of shape (n_texts, n_labels).
        n_bins: bins of the confidence, closed above, as in the source.

    Returns:
        `bins`: of each bin that has texts `confidence` (mean probability of the predicted label), `accuracy` and `n`;
        `expected_calibration_error`: the mean distance of the two, weighted by texts. Fractions.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3
    """
    confidence, is_right = probabilities.max(-1), probabilities.argmax(-1) == gold
    in_bin = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    n = np.bincount(in_bin)
    table = pd.DataFrame({"confidence": np.bincount(in_bin, confidence), "accuracy": np.bincount(in_bin, is_right)})
    table = table.div(np.maximum(n, 1), axis=0).assign(n=n)
    error = np.average((table["confidence"] - table["accuracy"]).abs(), weights=n)
    return {"expected_calibration_error": float(error), "bins": table[n > 0].to_dict("records")}


def measure_confidence(label_ids: np.ndarray, logits: np.ndarray, labels: tuple[str, ...]) -> dict[str, object]:
    """Return how far the metrics of a split may be trusted, as plain values.

    Args:
        label_ids: gold label ids of shape (n_texts,).
        logits: of shape (n_texts, n_labels), columns in the order of `labels`.

    Returns:
        `intervals`: the ends of the 95 % interval of accuracy, the macro metrics and `f1_<label>`, by stratified
        bootstrap; `confusion`: texts by gold label (rows) and predicted label; `expected_calibration_error`. Fractions.
    """
    confusion = count_confusion(label_ids, logits.argmax(-1), len(labels))
    calibration = measure_calibration(label_ids, softmax(logits.astype(np.float64), axis=-1))
    return {
        "intervals": bootstrap(confusion, labels=labels),
        "confusion": confusion.tolist(),
        "expected_calibration_error": calibration["expected_calibration_error"],
    }


def fit_temperature(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature by which logits are divided to make gold labels most likely, between 0.05 and 20.

    Args:
        gold: label ids of shape (n_texts,), of texts the model was not trained on.
        probabilities: of shape (n_texts, n_labels); their logarithms serve as logits.

    Raises:
        UserError: if the texts set no such temperature, as when all of them are predicted as gold.

    Source: Guo et al. 2017, section 4.2
    """
    logits = np.log(np.clip(probabilities, 1e-30, None))

    def mean_loss(log_temperature: float) -> float:
        losses = -log_softmax(logits / np.exp(log_temperature), axis=-1)[np.arange(len(gold)), gold]
        return float(losses.mean())

    bounds = np.log([0.05, 20])
    best = minimize_scalar(mean_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    share_right = np.mean(probabilities.argmax(-1) == gold)
    if share_right == 1 or np.abs(best.x - bounds).min() < 0.01:
        raise UserError(
            f"{len(gold):,} texts of which {share_right:.0%} are predicted as gold set no "
            "temperature between 0.05 and 20: calibrate on a larger file that the model was not trained on."
        )
    return float(np.exp(best.x))
