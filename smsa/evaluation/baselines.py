"""What an encoder is measured against: the most frequent label, counting words, TF-IDF with a linear model.

Each has `labels`, and a `predict` from texts to probabilities of shape (n_texts, n_labels) in their order. They are
saved as JSON and safetensors, never as a pickle.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.files import write_json

DESCRIPTION, WEIGHTS, VOCABULARY = "baseline.json", "baseline.safetensors", "vocabulary.json"


@dataclass(frozen=True)
class Majority:
    """Gives every text the label that most texts have; the probabilities are the shares of the labels in train."""

    labels: tuple[str, ...]
    shares: tuple[float, ...]
    kind = "majority"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Majority":
        """Count the labels of the training texts."""
        return cls(labels, tuple((np.bincount(label_ids, minlength=len(labels)) / len(label_ids)).tolist()))

    def predict(self, texts: list[str]) -> np.ndarray:
        return np.tile(self.shares, (len(texts), 1))

    def save(self, folder: Path) -> None:
        write_json({"kind": self.kind, "labels": self.labels, "shares": self.shares}, folder / DESCRIPTION)

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Majority":
        return cls(tuple(description["labels"]), tuple(description["shares"]))


# Words that carry a judgement by themselves in reviews and on social media, with the spellings people use. A stem also
# stands for its forms with the endings -nya, -lah, -kan, -an and -i.
_VALUES = {
    word: value
    for name, value in (("positive.txt", 1), ("negative.txt", -1))
    for word in Path(__file__).with_name("words").joinpath(name).read_text(encoding="utf-8").split()
}
NEGATIONS = frozenset("tidak tdk tak ga gak gk nggak ngga enggak engga bukan belum blm tanpa jangan kurang".split())
NEGATION_REACH = 2  # words after a negation whose judgement it turns round: "tidak terlalu enak"
_ENDINGS = ("nya", "lah", "kan", "an", "i")


class Keyword:
    """Counts words of joy and of anger, as the tutorial's first solution does; the label with more of them wins.

    A word within two words after a negation counts for the other side. Equal counts are neutral. The probability of a
    label grows with its lead: a softmax over the counts, in which neutral stands half a word above a tie.
    """

    kind = "keyword"

    def __init__(self, labels: tuple[str, ...] = LABELS):
        if set(labels) != set(LABELS):
            raise UserError(f"the keyword baseline knows the labels {', '.join(LABELS)}, not {', '.join(labels)}.")
        self.labels = tuple(labels)

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

    def save(self, folder: Path) -> None:
        write_json({"kind": self.kind, "labels": self.labels}, folder / DESCRIPTION)

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Keyword":
        return cls(tuple(description["labels"]))


def _find_value(word: str) -> int:
    stems = [word, *(word.removesuffix(ending) for ending in _ENDINGS)]
    return next((_VALUES[stem] for stem in stems if stem in _VALUES), 0)


class Tfidf:
    """Logistic regression over the TF-IDF of words and of parts of words; seconds to train.

    Words in ones and twos, and runs of 2 to 5 characters within words, which bring in unseen spellings. C and the
    minimal count were chosen on SmSA valid.
    """

    kind = "tfidf"
    C = 30.0

    def __init__(
        self, labels: tuple[str, ...], vectorizers: list[TfidfVectorizer], weights: np.ndarray, bias: np.ndarray
    ):
        self.labels, self._vectorizers, self._weights, self._bias = tuple(labels), vectorizers, weights, bias

    @staticmethod
    def _make_vectorizers(vocabularies: Iterable[dict | None] = (None, None)) -> list[TfidfVectorizer]:
        kinds = ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)})
        return [
            TfidfVectorizer(min_df=2, sublinear_tf=True, vocabulary=vocabulary, **kind)
            for kind, vocabulary in zip(kinds, vocabularies, strict=True)
        ]

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Tfidf":
        """Train on texts and their label ids; every label must have a text.

        Raises:
            UserError: if one has none.
        """
        if len(set(label_ids)) < len(labels):
            raise UserError("the tfidf baseline needs at least one training text of each label.")
        vectorizers = cls._make_vectorizers()
        features = hstack([vectorizer.fit_transform(texts) for vectorizer in vectorizers], format="csr")
        model = LogisticRegression(C=cls.C, class_weight="balanced", max_iter=1000).fit(features, label_ids)
        weights, bias = model.coef_, model.intercept_
        if len(labels) == 2:  # scikit-learn keeps one row for two labels
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        # safetensors writes the memory as it lies, whatever the order of the axes
        return cls(labels, vectorizers, np.ascontiguousarray(weights, np.float32), bias.astype(np.float32))

    def features(self, texts: list[str]) -> csr_matrix:
        """Return the TF-IDF values, of shape (n_texts, n_features)."""
        return hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers], format="csr")

    def predict(self, texts: list[str]) -> np.ndarray:
        return softmax(self.features(texts) @ self._weights.T.astype(np.float64) + self._bias, axis=-1)

    def save(self, folder: Path) -> None:
        tensors = {"weights": self._weights, "bias": self._bias}
        vocabularies = []
        for i, vectorizer in enumerate(self._vectorizers):
            tensors[f"idf_{i}"] = vectorizer.idf_
            vocabularies.append(sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get))
        save_file(tensors, folder / WEIGHTS)
        write_json(vocabularies, folder / VOCABULARY)
        write_json({"kind": self.kind, "labels": self.labels}, folder / DESCRIPTION)

    @classmethod
    def load(cls, folder: Path, description: dict) -> "Tfidf":
        tensors = load_file(folder / WEIGHTS)
        terms = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        vectorizers = cls._make_vectorizers([{term: i for i, term in enumerate(listed)} for listed in terms])
        for i, vectorizer in enumerate(vectorizers):
            vectorizer.idf_ = tensors[f"idf_{i}"]
        return cls(tuple(description["labels"]), vectorizers, tensors["weights"], tensors["bias"])


BASELINES = {baseline.kind: baseline for baseline in (Keyword, Tfidf, Majority)}


def load_baseline(folder: str | Path) -> "Keyword | Tfidf | Majority":
    """Load a baseline that `save` has left in a folder.

    Raises:
        UserError: if its files are not those of one.
    """
    path = Path(folder) / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        baseline = BASELINES[description["kind"]].load(Path(folder), description)
        shape = baseline.predict(["enak"]).shape
    except (ValueError, TypeError, KeyError, IndexError, SafetensorError) as error:
        raise UserError(f"{path.parent} is damaged, or no baseline ({', '.join(BASELINES)}): {error!r}") from error
    if shape != (1, len(baseline.labels)):
        raise UserError(f"{path.parent} is damaged: it has not one probability for each of its labels.")
    return baseline
