"""What each word of a text weighs for a label: Shapley values, on the engine that labels.

Words come into an empty text one after the other, in a random order; a word weighs what the log-odds of the label move
when it comes, as the mean over several orders. In each order these moves add up to what separates the text from one
without words, and so do the means.

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

TOLERANCE = 1e-3  # log-odds by which the weights may miss their sum: captum adds them up in float32
PAIRS = 10  # of orders, for texts of up to a hundred words
EVALUATIONS = 2000  # at the most, about: longer texts get fewer orders


def weigh_words(engine: Engine, text: str, encoding: Encoding, label_id: int) -> dict:
    """Return `log_odds`, `no_words` and `words`, as `SentimentClassifier.explain`, of a text that has a token."""
    ids = np.array(encoding.ids, dtype=np.int64)
    numbers = [number for number in dict.fromkeys(encoding.word_ids) if number is not None]
    # (n_words, n_tokens): which tokens a word has
    has_token = np.array([[of_word == number for of_word in encoding.word_ids] for number in numbers])
    is_special = ~has_token.any(0)

    known: dict[bytes, float] = {}  # by which words are present: computed once, so that no rounding tells two apart

    def log_odds(present: torch.Tensor) -> torch.Tensor:
        """Of texts of which some words are present, (n_texts, n_words) of 0 and 1; shape (n_texts,)."""
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
    # All that captum will ask for, at once: none, one, ... all words of each order. Each run waits for other threads'.
    first_words = np.tri(n_words + 1, n_words, -1)
    log_odds(torch.tensor(np.concatenate([first_words[:, np.argsort(o)] for o in _draw_orders(n_words, n_pairs)])))
    weights = sampling.attribute(every, n_samples=n_pairs, perturbations_per_eval=n_words)[0].tolist()
    words = []
    for tokens, weight in zip(has_token, weights, strict=True):
        offsets = [encoding.offsets[i] for i in np.flatnonzero(tokens)]
        start, end = min(start for start, _ in offsets), max(end for _, end in offsets)
        start = end - len(text[start:end].lstrip())  # byte-level tokenizers count the space before, too
        words.append({"word": text[start:end], "start": start, "end": end, "weight": weight})
    no_words = log_odds(torch.zeros(1, n_words)).item()
    return {"log_odds": log_odds(every).item(), "no_words": no_words, "words": words}


def _draw_orders(n_words: int, n_pairs: int) -> Iterator[list[int]]:
    """Yield orders, each followed by its reverse, which halves the noise; the same ones for each text of a length."""
    draw = np.random.default_rng(0)
    for _ in range(n_pairs):
        order = draw.permutation(n_words).tolist()
        yield order
        yield order[::-1]
