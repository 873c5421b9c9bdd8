"""The weight of each word of a text for a label: Shapley values, computed with the model that predicts.

Words are added to an empty text one by one, in a random order. The weight of a word is the change in the log-odds of
the label when the word is added, averaged over several orders. In each order, the changes add up to the difference
between the log-odds of the whole text and those of a text without words; so the weights add up to it, too.

Source: Castro, Gómez and Tejada 2009, Polynomial calculation of the Shapley value based on sampling,
https://doi.org/10.1016/j.cor.2008.04.004
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

PAIRS = 10  # pairs of orders for a text of up to a hundred words
EVALUATIONS = 2000  # about the most inputs that the model runs for one text: longer texts get fewer orders
_GAP_CHARS = 64  # what stands between two words, such as a link, is left out if it is longer


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
    # Words keep what stands between them and the word before, else have a blank. Before the first one there may be a
    # part of the text that was truncated.
    gaps = [text[end:start] for (_, end), (start, _) in pairwise([(0, 0), *spans])]
    gaps = [gap if i and len(gap) <= _GAP_CHARS else " " * bool(gap) for i, gap in enumerate(gaps)]
    inputs = []
    for kept in present.reshape(-1, n_words):
        follows = [True, *kept[:-1]]  # whether the word before is there, too
        inputs.append("".join((gaps[i] if follows[i] else " ") + text[slice(*spans[i])] for i in np.flatnonzero(kept)))
    log_odds = compute_log_odds(inputs).reshape(len(orders), -1)  # all in one run, as a run waits for other threads'
    weights = np.take_along_axis(np.diff(log_odds), positions, axis=-1).mean(0).tolist()
    words = [
        {"word": text[start:end], "start": start, "end": end, "weight": weight}
        for (start, end), weight in zip(spans, weights, strict=True)
    ]
    return {"log_odds": float(log_odds[0, -1]), "no_words": float(log_odds[0, 0]), "words": words}
