"""Scores with their uncertainty: bootstrap intervals, paired comparison, calibration.

Texts are resampled within each gold label, so that every resample has the label counts of the file (a stratified
bootstrap). Which texts are drawn does not matter to the scores, only how many of each gold label fall to each predicted
one; so the counts are drawn, from a multinomial distribution for each gold label, which is the same and much faster.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from smsa.errors import UserError

N_RESAMPLES = 10_000
LEVEL = 0.95
N_BINS = 15  # Guo et al. 2017, section 3
SCORES = ("accuracy", "f1", "recall", "precision")


def count_confusion(gold: np.ndarray, predicted: np.ndarray, n_labels: int) -> np.ndarray:
    """Get how many texts of each gold label (rows) were given each label (columns), of shape (n_labels, n_labels)."""
    return np.bincount(gold * n_labels + predicted, minlength=n_labels**2).reshape(n_labels, n_labels)


def score_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Get accuracy and macro F1, recall and precision of confusion matrices of shape (..., n_labels, n_labels).

    A label that divides by zero scores 0, as in `smsa.training.metrics`; so does one that neither side contains.
    """
    n_right = np.diagonal(confusion, axis1=-2, axis2=-1).sum(-1)
    macro = {name: values.mean(-1) for name, values in score_labels(confusion).items()}
    return {"accuracy": n_right / confusion.sum((-2, -1)), **macro}


def score_labels(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Get F1, recall and precision of each label, of shape (..., n_labels)."""
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
    """Draw counts of texts anew within each gold label.

    Args:
        counts: texts by gold label and by what happened to them, of shape (n_labels, n_outcomes).
        seed: of the draws.
        n_resamples: how many.

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
    """Get the percentile interval of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    confusion: np.ndarray, seed: int = 0, n_resamples: int = N_RESAMPLES, labels: tuple[str, ...] = ()
) -> dict[str, tuple[float, float]]:
    """Get the 95 % interval of accuracy, of macro F1, recall and precision, and of `f1_<label>` for each of `labels`.

    Where every text of a label was given the same label, that label does not vary, so that the interval of a perfect
    result has no width: then it says little about other texts.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    drawn = resample(confusion, seed, n_resamples)
    scores, f1 = score_confusion(drawn), score_labels(drawn)["f1"]  # (n_resamples,), (n_resamples, n_labels)
    of_labels = {f"f1_{label}": interval(f1[:, i]) for i, label in enumerate(labels)}
    return {name: interval(scores[name]) for name in SCORES} | of_labels


@dataclass(frozen=True)
class Comparison:
    """How much system A is ahead of system B on the same texts.

    Attributes:
        differences: A minus B, of accuracy and the macro scores.
        intervals: their 95 % intervals, by paired bootstrap.
        only_a_right, only_b_right: texts that one alone labelled as gold does.
        p_value: of McNemar's exact test of these two counts: how likely so uneven a split is if both err equally often.
        n_texts: how many were compared.
    """

    differences: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    only_a_right: int
    only_b_right: int
    p_value: float
    n_texts: int

    def describe(self, a: str, b: str) -> str:
        """Get the comparison of macro F1 as a plain sentence."""
        points, (low, high) = 100 * self.differences["f1"], (100 * end for end in self.intervals["f1"])
        ahead, behind = (a, b) if points >= 0 else (b, a)
        if points < 0:
            points, low, high = -points, -high, -low
        rounded = f"95 % interval {round(low, 1) + 0.0:.1f} to {round(high, 1) + 0.0:.1f}"  # no -0.0
        if round(points, 1) == 0 and low < high:
            return f"{a} and {b} have the same macro F1, within {max(-low, high):.1f} points (95 % interval)."
        verdict = "" if low > 0 else f": not told apart by these {self.n_texts:,} texts"
        if points == 0 and low == high == 0:
            return f"{a} and {b} have the same macro F1 on these {self.n_texts:,} texts."
        if low == high:
            verdict = f": these {self.n_texts:,} texts cannot show how much others would differ"
        lead = f"{points:.1f} points of macro F1 ({rounded})"
        return f"{ahead} is ahead of {behind} by {lead}{verdict}."


def compare(
    gold: np.ndarray, a: np.ndarray, b: np.ndarray, n_labels: int, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Comparison:
    """Compare two systems on the same texts.

    Args:
        gold, a, b: label ids of shape (n_texts,): the gold ones, and those that each system gave.
        n_labels: how many labels there are.
        seed, n_resamples: of the bootstrap.

    Source: McNemar 1947; paired bootstrap as in Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091
    """
    outcomes = np.bincount((gold * n_labels + a) * n_labels + b, minlength=n_labels**3).reshape(n_labels, -1)
    drawn = resample(outcomes, seed, n_resamples).reshape(-1, n_labels, n_labels, n_labels)
    by_a, by_b = score_confusion(drawn.sum(-1)), score_confusion(drawn.sum(-2))
    ours, theirs = (score_confusion(count_confusion(gold, labels, n_labels)) for labels in (a, b))
    only_a, only_b = int(((a == gold) & (b != gold)).sum()), int(((b == gold) & (a != gold)).sum())
    return Comparison(
        differences={name: float(ours[name] - theirs[name]) for name in SCORES},
        intervals={name: interval(by_a[name] - by_b[name]) for name in SCORES},
        only_a_right=only_a,
        only_b_right=only_b,
        p_value=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        n_texts=len(gold),
    )


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in bins of equal width; each array has shape (n_bins,), NaN where a bin is empty.

    Attributes:
        confidence: mean probability of the predicted label.
        accuracy: share of texts whose predicted label is gold.
        n_texts: texts in the bin.
        error: expected calibration error: the mean distance of the two, weighted by texts, in [0, 1].
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    n_texts: np.ndarray
    error: float


def measure_calibration(gold: np.ndarray, probabilities: np.ndarray, n_bins: int = N_BINS) -> Reliability:
    """Compare how sure a system is with how often it is right.

    Args:
        gold: label ids of shape (n_texts,).
        probabilities: of shape (n_texts, n_labels).
        n_bins: bins of the confidence, closed above, as in the source.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3
    """
    confidence, is_right = probabilities.max(-1), probabilities.argmax(-1) == gold
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    n_texts = np.bincount(bins, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, n_bins) / n_texts
        accuracy = np.bincount(bins, is_right, n_bins) / n_texts
    error = np.nansum(n_texts * np.abs(mean_confidence - accuracy)) / len(gold)
    return Reliability(mean_confidence, accuracy, n_texts, float(error))


def fit_temperature(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Get the temperature whose division of the logits makes gold labels most likely, between 0.05 and 20.

    Args:
        gold: label ids of shape (n_texts,), of texts the model was not trained on.
        probabilities: of shape (n_texts, n_labels); their logarithms serve as logits.

    Raises:
        ValueError: if the texts set no such temperature, as when all of them are labelled as gold.

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
            f"{len(gold):,} texts of which {share_right:.0%} are labelled as gold set no "
            "temperature between 0.05 and 20: calibrate by a larger file that the model was not trained on."
        )
    return float(np.exp(best.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Get the probabilities that logits divided by `temperature` give, of the same shape; the order of labels stays."""
    return softmax(np.log(np.clip(probabilities, 1e-30, None)) / temperature, axis=-1)


def measure_confidence(label_ids: np.ndarray, logits: np.ndarray, labels: tuple[str, ...]) -> dict[str, object]:
    """Return how far the scores of a split may be trusted, as plain values.

    Args:
        label_ids: gold label ids of shape (n_texts,).
        logits: of shape (n_texts, n_labels).
        labels: label names in the order of their ids.

    Returns:
        `intervals`: the ends of the 95 % interval of accuracy, the macro scores and `f1_<label>`, by stratified
        bootstrap; `confusion`: texts by gold label (rows) and predicted label; `expected_calibration_error`. Fractions.
    """
    confusion = count_confusion(label_ids, logits.argmax(-1), len(labels))
    return {
        "intervals": bootstrap(confusion, labels=labels),
        "confusion": confusion.tolist(),
        "expected_calibration_error": measure_calibration(label_ids, softmax(logits.astype(np.float64), axis=-1)).error,
    }
