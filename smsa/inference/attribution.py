"""The weight of each word of a text for a label: Shapley values, computed on the engine that predicts.

Words are added to an empty text one by one, in a random order. The weight of a word is the change in the log-odds of
the label when the word is added, averaged over several orders. In each order, the changes add up to the difference
between the log-odds of the whole text and those of a text without words; so the weights add up to it, too.

Source: Castro, Gómez and Tejada 2009, Polynomial calculation of the Shapley value based on sampling,
https://doi.org/10.1016/j.cor.2008.04.004
"""

import numpy as np
from scipy.special import logsumexp
from tokenizers import Encoding

from smsa.inference.engine import Engine

PAIRS = 10  # pairs of orders for a text of up to a hundred words
EVALUATIONS = 2000  # about the most inputs that the model runs for one text: longer texts get fewer orders


def weigh_words(engine: Engine, text: str, encoding: Encoding, label_id: int) -> dict:
    """Return `log_odds`, `no_words` and `words`, as `SentimentClassifier.explain` does; the text must have a token."""
    ids = np.array(encoding.ids, dtype=np.int64)
    numbers = sorted({*encoding.word_ids} - {None})
    # (n_words, n_tokens): whether a token belongs to a word
    has_token = np.array([[of_word == number for of_word in encoding.word_ids] for number in numbers])
    is_special = ~has_token.any(0)

    n_words = len(numbers)
    n_pairs = int(np.clip(EVALUATIONS // (2 * n_words), 1, PAIRS))
    draw = np.random.default_rng(0)  # the same orders for texts of equal length
    forward = np.array([draw.permutation(n_words) for _ in range(n_pairs)])
    orders = np.concatenate([forward, forward[:, ::-1]])  # each also in reverse, to halve the noise
    positions = np.argsort(orders)  # (n_orders, n_words): when each word is added
    # (n_orders, n_words + 1, n_words): whether a word is present after 0, 1, ... all words of an order were added
    present = positions[:, None] < np.arange(n_words + 1)[:, None]
    # each input once, as rounding would give it another value; all in one run, as a run waits for other threads' runs
    inputs, index = np.unique(present.reshape(-1, n_words), axis=0, return_inverse=True)
    logits = engine.run([ids[has_token[kept].any(0) | is_special] for kept in inputs]).astype(np.float64)
    others = logsumexp(np.delete(logits, label_id, axis=-1), axis=-1)
    log_odds = (logits[:, label_id] - others)[index].reshape(len(orders), n_words + 1)
    weights = np.take_along_axis(np.diff(log_odds), positions, axis=-1).mean(0).tolist()
    words = []
    for number, weight in zip(numbers, weights, strict=True):
        start, end = encoding.word_to_chars(number)
        start = end - len(text[start:end].lstrip())  # byte-level tokenizers include the space before a word
        # of a word that a normaliser replaced as a whole, such as a place, tokenizers knows the last letter only
        least = words[-1]["end"] if words else 0
        while start > least and (text[start - 1].isalnum() or text[start - 1] in ".,"):
            start -= 1
        words.append({"word": text[start:end], "start": start, "end": end, "weight": weight})
    return {"log_odds": float(log_odds[0, -1]), "no_words": float(log_odds[0, 0]), "words": words}
