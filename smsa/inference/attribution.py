"""The weight of each word of a text for a label: Shapley values, computed on the engine that predicts.

Words are added to an empty text one by one, in a random order. The weight of a word is the change in the log-odds of
the label when the word is added, averaged over several orders. In each order, the changes add up to the difference
between the log-odds of the whole text and those of a text without words; so the weights add up to it, too.

Source: Castro, Gómez and Tejada 2009, Polynomial calculation of the Shapley value based on sampling,
https://doi.org/10.1016/j.cor.2008.04.004
"""

from collections.abc import Iterator

import numpy as np
import torch
from captum.attr import ShapleyValueSampling
from scipy.special import logsumexp
from tokenizers import Encoding

from smsa.inference.engine import Engine

TOLERANCE = 1e-3  # in log-odds: the weights may miss their exact sum by this, since captum adds in float32
PAIRS = 10  # pairs of orders for a text of up to a hundred words
EVALUATIONS = 2000  # about the most inputs that the model runs for one text: longer texts get fewer orders


def weigh_words(engine: Engine, text: str, encoding: Encoding, label_id: int) -> dict:
    """Return `log_odds`, `no_words` and `words`, as `SentimentClassifier.explain` does; the text must have a token."""
    ids = np.array(encoding.ids, dtype=np.int64)
    numbers = [number for number in dict.fromkeys(encoding.word_ids) if number is not None]
    # (n_words, n_tokens): whether a token belongs to a word
    has_token = np.array([[of_word == number for of_word in encoding.word_ids] for number in numbers])
    is_special = ~has_token.any(0)

    known: dict[bytes, float] = {}  # present words -> log-odds; run once each: rounding would give another value

    def log_odds(present: torch.Tensor) -> torch.Tensor:
        """Return log-odds, (n_texts,), of the text with only the words that `present`, (n_texts, n_words), marks 1."""
        rows = {row.tobytes(): row for row in present.numpy() > 0}
        new = [key for key in rows if key not in known]
        if new:
            kept = [ids[has_token[rows[key]].any(0) | is_special] for key in new]
            logits = engine.run(kept)
            others = logsumexp(np.delete(logits.astype(np.float64), label_id, axis=-1), axis=-1)
            known.update(zip(new, logits[:, label_id] - others, strict=True))
        return torch.tensor([known[row.tobytes()] for row in present.numpy() > 0], dtype=torch.float64)

    n_words = len(numbers)
    sampling = ShapleyValueSampling(log_odds)
    sampling.permutation_generator = _draw_orders
    every = torch.ones(1, n_words)
    n_pairs = int(np.clip(EVALUATIONS // (2 * n_words), 1, PAIRS))
    # captum asks for 0, 1, ... all words of each order. All are run together, as each run waits for other threads'.
    first_words = np.tri(n_words + 1, n_words, -1)
    log_odds(torch.tensor(np.concatenate([first_words[:, np.argsort(o)] for o in _draw_orders(n_words, n_pairs)])))
    weights = sampling.attribute(every, n_samples=n_pairs, perturbations_per_eval=n_words)[0].tolist()
    words = []
    for tokens, weight in zip(has_token, weights, strict=True):
        offsets = [encoding.offsets[i] for i in np.flatnonzero(tokens)]
        start, end = min(start for start, _ in offsets), max(end for _, end in offsets)
        start = end - len(text[start:end].lstrip())  # byte-level tokenizers include the space before a word
        words.append({"word": text[start:end], "start": start, "end": end, "weight": weight})
    no_words = log_odds(torch.zeros(1, n_words)).item()
    return {"log_odds": log_odds(every).item(), "no_words": no_words, "words": words}


def _draw_orders(n_words: int, n_pairs: int) -> Iterator[list[int]]:
    """Yield random orders, the same for texts of equal length. Each is followed by its reverse, to halve the noise."""
    draw = np.random.default_rng(0)
    for _ in range(n_pairs):
        order = draw.permutation(n_words).tolist()
        yield order
        yield order[::-1]
