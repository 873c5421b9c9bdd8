"""The weight of each word of a text for a label: Shapley values, computed with the model that predicts.

Words are added to an empty text one by one, in a random order. The weight of a word is the change in the log-odds of
the label when the word is added, averaged over several orders. In each order, the changes add up to the difference
between the log-odds of the whole text and those of a text without words; so the weights add up to it, too.

Source: Castro, Gómez and Tejada 2009, Polynomial calculation of the Shapley value based on sampling,
https://doi.org/10.1016/j.cor.2008.04.004
"""

from collections.abc import Callable

import numpy as np

PAIRS = 10  # pairs of orders for a text of up to a hundred words
EVALUATIONS = 2000  # about the most inputs that the model runs for one text: longer texts get fewer orders


def weigh_words(
    compute_log_odds: Callable[[list[str]], np.ndarray], text: str, spans: list[tuple[int, int]]
) -> dict[str, object]:
    """Return `log_odds`, `no_words` and `words`, as `SentimentClassifier.explain` does.

    Args:
        compute_log_odds: texts -> log-odds of the label, (n_texts,), also for a text without words; equal ones for
            equal texts.
        text: the text.
        spans: start and end of each of its words, in their order; at least one.
    """
    n_words = len(spans)
    n_pairs = int(np.clip(EVALUATIONS // (2 * n_words), 1, PAIRS))
    draw = np.random.default_rng(0)  # the same orders for texts of equal length
    forward = np.array([draw.permutation(n_words) for _ in range(n_pairs)])
    orders = np.concatenate([forward, forward[:, ::-1]])  # each also in reverse, to halve the noise
    positions = np.argsort(orders)  # (n_orders, n_words): when each word is added
    # (n_orders, n_words + 1, n_words): whether a word is present after 0, 1, ... all words of an order were added
    present = positions[:, None] < np.arange(n_words + 1)[:, None]
    inputs = [_keep_words(text, spans, kept) for kept in present.reshape(-1, n_words)]
    log_odds = compute_log_odds(inputs).reshape(len(orders), -1)  # all in one run, as a run waits for other threads'
    weights = np.take_along_axis(np.diff(log_odds), positions, axis=-1).mean(0).tolist()
    words = [
        {"word": text[start:end], "start": start, "end": end, "weight": weight}
        for (start, end), weight in zip(spans, weights, strict=True)
    ]
    return {"log_odds": float(log_odds[0, -1]), "no_words": float(log_odds[0, 0]), "words": words}


def _keep_words(text: str, spans: list[tuple[int, int]], kept: np.ndarray) -> str:
    """Return a text of some words: what stands between neighbours stays if both do, else a blank parts words."""
    pieces, before, follows = [], 0, True
    for (start, end), is_kept in zip(spans, kept, strict=True):
        if is_kept:
            pieces.append((text[before:start] if follows else " ") + text[start:end])
        before, follows = end, is_kept
    return "".join(pieces)
