"""Metrics with their uncertainty: bootstrap intervals, paired comparison, calibration.

Texts are resampled within each gold label, so that every resample has the label counts of the file (a stratified
bootstrap). The metrics depend only on counts, so counts are drawn, from a multinomial distribution for each gold label.
This is the same as drawing texts, and much faster.

Throughout, `gold` are label ids of shape (n_texts,), `probabilities` have the shape (n_texts, n_labels), and a
`confusion` of shape (..., n_labels, n_labels) has counts of texts by gold label (rows) and predicted label (columns).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import binomtest

from smsa.errors import UserError
from smsa.training.metrics import REFERENCE_NAMES, score_confusion

N_RESAMPLES = 10_000
LEVEL = 0.95
METHOD = {"level": LEVEL, "method": "stratified percentile bootstrap", "resamples": N_RESAMPLES}
N_BINS = 15  # Guo et al. 2017, section 3
MAX_COUNTS = 10_000_000  # drawn at once, which take 80 MB: the counts of a comparison grow with n_labels**3
METRICS = tuple(REFERENCE_NAMES)
Score = Callable[[np.ndarray], dict[str, np.ndarray]]
score_present = partial(score_confusion, only_present=True)  # a file with two labels can reach 1.0


def bootstrap(counts: np.ndarray, score: Score = score_present, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return each score of the texts with its 95 % percentile interval: `value`, `low`, `high`.

    The texts of each label are redrawn N_RESAMPLES times. If all of them have the same outcome, that label does not
    vary. So the interval of a perfect result has no width, and says little about other texts.

    Args:
        counts: texts by gold label and outcome, of shape (n_labels, n_outcomes); a confusion matrix, for example.
        score: scores of counts of shape (..., n_labels, n_outcomes), by name.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    n_texts = counts.sum(-1, keepdims=True)  # (n_labels, 1)
    shares, generator, tables = counts / np.maximum(n_texts, 1), np.random.default_rng(seed), []
    n_at_once = max(1, MAX_COUNTS // counts.size)
    for start in range(0, N_RESAMPLES, n_at_once):
        size = (len(counts), min(n_at_once, N_RESAMPLES - start))
        drawn = generator.multinomial(n_texts, shares[:, None], size)  # (n_labels, n_resamples, n_outcomes)
        tables.append(pd.DataFrame(score(drawn.swapaxes(0, 1))))
    resampled, intervals = pd.concat(tables), {}
    for name, value in score(counts).items():
        low, high = np.quantile(resampled[name], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
        intervals[name] = {"value": value.item(), "low": low, "high": high}
    return intervals


def compare(gold: np.ndarray, a: np.ndarray, b: np.ndarray, n_labels: int, seed: int = 0) -> dict[str, dict]:
    """Compare systems A and B, which predicted the label ids `a` and `b` for the same texts.

    Returns:
        `differences`: A minus B in each of `METRICS`, with its 95 % interval by paired bootstrap; `mcnemar`:
        `only_a_right` and `only_b_right`, the numbers of texts that only one system predicted as gold, and the
        `p_value` of McNemar's exact test: how likely a split this uneven is if both err equally often.

    Source: McNemar 1947; paired bootstrap as in Berg-Kirkpatrick et al. 2012, https://aclanthology.org/D12-1091
    """

    def subtract(counts: np.ndarray) -> dict[str, np.ndarray]:
        pairs = counts.reshape(-1, n_labels, n_labels, n_labels)  # by gold label, and by what A and B predicted
        scores_a, scores_b = score_present(pairs.sum(-1)), score_present(pairs.sum(-2))
        return {name: scores_a[name] - scores_b[name] for name in METRICS}

    outcomes = np.bincount((gold * n_labels + a) * n_labels + b, minlength=n_labels**3).reshape(n_labels, -1)
    only_a, only_b = int(((a == gold) & (b != gold)).sum()), int(((b == gold) & (a != gold)).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {
        "differences": bootstrap(outcomes, subtract, seed),
        "mcnemar": {"only_a_right": only_a, "only_b_right": only_b, "p_value": p_value},
    }


def describe_comparison(a: str, b: str, f1: dict[str, float], n_texts: int) -> str:
    """Return a sentence on which system is ahead, if these texts show it; `f1` is `differences["f1"]` of `compare`."""
    value, low, high = (100 * f1[end] for end in ("value", "low", "high"))  # in points
    is_told = low > 0 or high < 0
    verdict = f"{a if low > 0 else b} is ahead" if is_told else f"not told apart by these {n_texts:,} texts"
    return f"{a} minus {b}: {value:+.1f} points of macro F1 (95 % interval {low:+.1f} to {high:+.1f}), {verdict}."


def measure_calibration(gold: np.ndarray, probabilities: np.ndarray) -> dict[str, object]:
    """Compare the confidence of a system with how often it is right.

    Returns:
        `bins` of equal width that include their upper end; each bin with texts has `confidence` (mean probability of
        the predicted label), `accuracy` and `n`. `expected_calibration_error`: the mean of |confidence - accuracy|,
        weighted by `n`.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599, equation 3
    """
    confidence, is_right = probabilities.max(-1), probabilities.argmax(-1) == gold
    texts = pd.DataFrame({"confidence": confidence, "accuracy": is_right})
    grouped = texts.groupby(np.ceil(confidence * N_BINS).clip(max=N_BINS))
    bins = grouped.mean().assign(n=grouped.size())
    error = np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["n"])
    return {"expected_calibration_error": float(error), "bins": bins.to_dict("records")}


def fit_temperature(gold: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature between 0.05 and 20 that, dividing the logits, makes the gold labels most likely.

    Raises:
        UserError: if the texts determine none, for example if all of them are predicted as gold.

    Source: Guo et al. 2017, section 4.2
    """
    logits = np.log(np.clip(probabilities, 1e-300, None))

    def mean_loss(log_temperature: float) -> float:
        return -log_softmax(logits / np.exp(log_temperature), axis=-1)[np.arange(len(gold)), gold].mean()

    bounds = np.log([0.05, 20])
    best = minimize_scalar(mean_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    share_right = np.mean(probabilities.argmax(-1) == gold)
    if share_right == 1 or np.abs(best.x - bounds).min() < 0.01:
        raise UserError(
            f"{len(gold):,} texts, of which {share_right:.0%} are predicted as gold, determine no temperature between "
            "0.05 and 20: calibrate on a larger file that the model was not trained on."
        )
    return float(np.exp(best.x))
