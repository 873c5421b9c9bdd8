"""What an encoder is measured against: the most frequent label, counting words, TF-IDF with a linear model.

Each has `labels`, and a `predict` from texts to probabilities of shape (n_texts, n_labels) in their order. They are
saved as JSON and safetensors, never as a pickle.
"""

import json
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.files import write_json

DESCRIPTION, WEIGHTS = "baseline.json", "baseline.safetensors"


@dataclass
class Majority:
    """Gives every text the label that most texts have; the probabilities are the shares of the labels in train."""

    labels: tuple[str, ...]
    shares: list[float]
    kind = "majority"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Majority":
        """Count the labels of the training texts."""
        return cls(labels, (np.bincount(label_ids, minlength=len(labels)) / len(label_ids)).tolist())

    def predict(self, texts: list[str]) -> np.ndarray:
        return np.tile(self.shares, (len(texts), 1))


# Words that judge by themselves in reviews and on social media, with the spellings people use. A stem also
# stands for its forms with the endings -nya, -lah, -kan, -an and -i.
_VALUES = {
    word: value
    for name, value in (("positive.txt", 1), ("negative.txt", -1))
    for word in Path(__file__).with_name("words").joinpath(name).read_text(encoding="utf-8").split()
}
NEGATIONS = frozenset("tidak tdk tak ga gak gk nggak ngga enggak engga bukan belum blm tanpa jangan kurang".split())
NEGATION_REACH = 2  # words after a negation whose value it turns round: "tidak terlalu enak"
_ENDINGS = ("nya", "lah", "kan", "an", "i")


@dataclass
class Keyword:
    """Counts words of joy and of anger, as the tutorial's first solution does; the label with more of them wins.

    A word within two words after a negation counts for the other side. Equal counts are neutral. The probability of a
    label grows with its lead: a softmax over the counts, in which neutral stands half a word above a tie.
    """

    labels: tuple[str, ...] = LABELS
    kind = "keyword"

    def __post_init__(self) -> None:
        if set(self.labels) != set(LABELS):
            raise UserError(f"the keyword baseline knows the labels {', '.join(LABELS)}, not {', '.join(self.labels)}.")

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Keyword":
        """Return the baseline: it learns nothing from texts."""
        return cls(labels)

    def count(self, text: str) -> tuple[int, int]:
        """Return how many words speak for positive and for negative."""
        words = re.findall(r"\w+(?:-\w+)?", text.lower())
        positive = negative = 0
        last_negation = -NEGATION_REACH - 1
        for i, word in enumerate(words):
            pair = f"{words[i - 1]}-{word}" if i else ""
            value = _VALUES.get(pair) or _find_value(word)
            negated = i - last_negation <= NEGATION_REACH and pair not in _VALUES
            if word in NEGATIONS:
                last_negation = i
                value = 0 if i + 1 < len(words) else value  # "kurang" alone at the end complains by itself
            if value and negated:
                value = -value
            positive, negative = positive + (value > 0), negative + (value < 0)
        return positive, negative

    def predict(self, texts: list[str]) -> np.ndarray:
        counts = np.array([self.count(text) for text in texts], dtype=float).reshape(-1, 2)
        scores = {"positive": counts[:, 0], "negative": counts[:, 1], "neutral": counts.min(-1) + 0.5}
        return softmax(np.stack([scores[label] for label in self.labels], axis=1), axis=-1)


def _find_value(word: str) -> int:
    stems = [word, *(word.removesuffix(ending) for ending in _ENDINGS)]
    return next((_VALUES[stem] for stem in stems if stem in _VALUES), 0)


def _make_vectorizers() -> list[TfidfVectorizer]:
    kinds = ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)})
    return [TfidfVectorizer(min_df=2, sublinear_tf=True, **kind) for kind in kinds]


@dataclass
class Tfidf:
    """Logistic regression over the TF-IDF of words and of parts of words; seconds to train.

    Words in ones and twos, and runs of 2 to 5 characters within words, which bring in unseen spellings. C and the
    minimal count were chosen on SmSA valid.
    """

    labels: tuple[str, ...]
    vocabularies: list[list[str]]  # of words and of parts of words, in the order of the features
    word_idf: np.ndarray  # (n_words,)
    part_idf: np.ndarray  # (n_parts,)
    weights: np.ndarray  # (n_labels, n_words + n_parts)
    bias: np.ndarray  # (n_labels,)
    kind = "tfidf"
    C = 30.0

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Tfidf":
        """Train on texts and their label ids.

        Raises:
            UserError: if a label has no text.
        """
        if len(set(label_ids)) < len(labels):
            raise UserError("the tfidf baseline needs at least one training text of each label.")
        vectorizers = _make_vectorizers()
        features = hstack([vectorizer.fit_transform(texts) for vectorizer in vectorizers], format="csr")
        model = LogisticRegression(C=cls.C, class_weight="balanced", max_iter=1000).fit(features, label_ids)
        weights, bias = model.coef_, model.intercept_
        if len(labels) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        vocabularies = [vectorizer.get_feature_names_out().tolist() for vectorizer in vectorizers]
        # safetensors writes the memory as it lies, whatever the order of the axes
        weights, bias = np.ascontiguousarray(weights, np.float32), bias.astype(np.float32)
        return cls(labels, vocabularies, *(vectorizer.idf_ for vectorizer in vectorizers), weights, bias)

    @cached_property
    def vectorizers(self) -> list[TfidfVectorizer]:
        """From texts to the TF-IDF of words, and of parts of words."""
        vectorizers = _make_vectorizers()
        for vectorizer, terms, idf in zip(vectorizers, self.vocabularies, (self.word_idf, self.part_idf), strict=True):
            vectorizer.vocabulary = {term: i for i, term in enumerate(terms)}
            vectorizer.idf_ = idf
        return vectorizers

    def predict(self, texts: list[str]) -> np.ndarray:
        features = hstack([vectorizer.transform(texts) for vectorizer in self.vectorizers], format="csr")
        return softmax(features @ self.weights.T.astype(np.float64) + self.bias, axis=-1)


BASELINES = {baseline.kind: baseline for baseline in (Keyword, Tfidf, Majority)}


def save_baseline(baseline: Keyword | Tfidf | Majority, folder: Path) -> None:
    """Save arrays as safetensors and all else as JSON."""
    values = {field.name: getattr(baseline, field.name) for field in fields(baseline)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    if arrays:
        save_file(arrays, folder / WEIGHTS)
    plain = {name: value for name, value in values.items() if name not in arrays}
    write_json({"kind": baseline.kind, **plain}, folder / DESCRIPTION)


def load_baseline(folder: str | Path) -> Keyword | Tfidf | Majority:
    """Load what `save_baseline` has left in a folder.

    Raises:
        UserError: if its files are not those of a baseline.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        kind, labels = values.pop("kind"), tuple(values.pop("labels"))
        arrays = load_file(folder / WEIGHTS) if (folder / WEIGHTS).exists() else {}
        baseline = BASELINES[kind](labels=labels, **values, **arrays)
        shape = baseline.predict(["enak"]).shape
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, SafetensorError) as error:
        raise UserError(f"{folder} is damaged, or no baseline ({', '.join(BASELINES)}): {error!r}") from error
    if shape != (1, len(labels)):
        raise UserError(f"{folder} is damaged: it has not one probability for each of its labels.")
    return baseline
