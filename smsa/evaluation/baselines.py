"""Baselines to compare an encoder with: the most frequent label, counts of words, TF-IDF with a linear model.

Each has `labels`, a `fit` to training texts and their label ids, and a `predict` from texts to probabilities of shape
(n_texts, n_labels). They are saved as JSON and safetensors, never as a pickle.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from transformers.hf_argparser import HfArg

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.files import write_json

DESCRIPTION, WEIGHTS = "baseline.json", "baseline.safetensors"


@dataclass
class Majority:
    """Predict the most frequent label for every text; the probabilities are the shares of the labels in train."""

    labels: tuple[str, ...]
    shares: list[float]
    kind = "majority"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Majority":
        return cls(labels, (np.bincount(label_ids, minlength=len(labels)) / len(label_ids)).tolist())

    def predict(self, texts: list[str]) -> np.ndarray:
        return np.tile(self.shares, (len(texts), 1))


# Words that are positive (1) or negative (-1) alone, in reviews and on social media, with the spellings people use.
_WORDS = Path(__file__).with_name("words")
_VALUES = dict.fromkeys((_WORDS / "positive.txt").read_text("utf-8").split(), 1)
_VALUES |= dict.fromkeys((_WORDS / "negative.txt").read_text("utf-8").split(), -1)
_ENDINGS = ("", "nya", "lah", "kan", "an", "i")  # a word also counts with one of these
_NEGATIONS = frozenset("tidak tdk tak ga gak gk nggak ngga enggak engga bukan belum blm tanpa jangan kurang".split())
_NEGATION_REACH = 2  # a negation inverts this many words after it: "tidak terlalu enak"


@dataclass
class Keyword:
    """Count words of joy and of anger, as the tutorial's first solution does; predict the label with more of them.

    A word at most two words after a negation counts for the other label. Equal counts are neutral. Probabilities are a
    softmax over the counts, where neutral counts half a word more than the smaller of the two.
    """

    labels: tuple[str, ...] = LABELS
    kind = "keyword"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Keyword":
        return cls()  # it learns nothing, and knows no other labels

    def count(self, text: str) -> tuple[int, int]:
        """Return how many words are positive, and how many are negative."""
        words = re.findall(r"\w+(?:-\w+)?", text.lower())
        values, last_negation = [], -_NEGATION_REACH - 1
        for i, word in enumerate(words):
            pair = f"{words[i - 1]}-{word}" if i else ""
            forms = (pair, *(word.removesuffix(ending) for ending in _ENDINGS))
            value = next((_VALUES[form] for form in forms if form in _VALUES), 0)
            if i - last_negation <= _NEGATION_REACH and pair not in _VALUES:
                value = -value
            if word in _NEGATIONS:
                last_negation = i
                value = 0 if i + 1 < len(words) else value  # "kurang" alone at the end complains by itself
            values.append(value)
        return values.count(1), values.count(-1)

    def predict(self, texts: list[str]) -> np.ndarray:
        counts = np.array([self.count(text) for text in texts], dtype=float).reshape(-1, 2)
        scores = {"positive": counts[:, 0], "negative": counts[:, 1], "neutral": counts.min(-1) + 0.5}
        return softmax(np.stack([scores[label] for label in self.labels], axis=1), axis=-1)


def _make_vectorizer(min_df: int = 2):
    """Return a vectorizer of word 1- and 2-grams, and of 2- to 5-grams of characters, which cover new spellings."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds; only this baseline needs it
    from sklearn.pipeline import make_union

    kinds = ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)})
    return make_union(*(TfidfVectorizer(min_df=min_df, sublinear_tf=True, **kind) for kind in kinds))


@dataclass
class Tfidf:
    """Logistic regression over the TF-IDF of words and of parts of words; its options were chosen on SmSA valid."""

    labels: tuple[str, ...]
    vocabularies: list[list[str]]  # of words and of parts of words, in the order of the features
    word_idf: np.ndarray  # (n_words,)
    part_idf: np.ndarray  # (n_parts,)
    weights: np.ndarray  # (n_labels, n_words + n_parts)
    bias: np.ndarray  # (n_labels,)
    kind = "tfidf"

    @classmethod
    def fit(cls, texts: list[str], label_ids: list[int], labels: tuple[str, ...] = LABELS) -> "Tfidf":
        """Train on texts and their label ids; a label without a text gets the probability 0."""
        from sklearn.linear_model import LogisticRegression

        for min_df in (2, 1) if len(texts) >= 100 else (1,):  # a few texts, or names alone, may share no word
            vectorizer = _make_vectorizer(min_df)
            with suppress(ValueError):
                features = vectorizer.fit_transform(texts)
                break
        else:
            raise UserError("no text has a word of two letters, of which --kind tfidf learns: choose another --kind.")
        model = LogisticRegression(C=30.0, class_weight="balanced", max_iter=1000).fit(features, label_ids)
        found = np.column_stack([model.coef_, model.intercept_])
        if len(found) == 1:  # scikit-learn keeps one row for two labels
            found = np.concatenate([-found, found]) / 2
        weights, bias = np.zeros((len(labels), model.n_features_in_)), np.full(len(labels), -np.inf)
        weights[model.classes_], bias[model.classes_] = found[:, :-1], found[:, -1]
        parts = [part for _, part in vectorizer.transformer_list]
        vocabularies, idfs = [part.get_feature_names_out().tolist() for part in parts], [part.idf_ for part in parts]
        # safetensors writes the memory as it is, and ignores the order of the axes
        return cls(labels, vocabularies, *idfs, np.ascontiguousarray(weights, np.float32), bias.astype(np.float32))

    def predict(self, texts: list[str]) -> np.ndarray:
        vectorizer, idfs = _make_vectorizer(), (self.word_idf, self.part_idf)
        for (_, part), terms, idf in zip(vectorizer.transformer_list, self.vocabularies, idfs, strict=True):
            part.vocabulary, part.idf_ = terms, idf
        return softmax(vectorizer.transform(texts) @ self.weights.T.astype(np.float64) + self.bias, axis=-1)


BASELINES = {baseline.kind: baseline for baseline in (Keyword, Tfidf, Majority)}


@dataclass
class BaselineArguments:
    """Which baseline, and where it goes."""

    kind: Literal[*BASELINES] = HfArg(
        help="keyword: words of joy and anger; tfidf: logistic regression; majority: the most frequent label."
    )
    output: str = HfArg(help="Folder for the baseline and its report; new or empty.")


def save_baseline(baseline: Keyword | Tfidf | Majority, folder: Path) -> None:
    """Save arrays as safetensors and all else as JSON."""
    values = {"kind": baseline.kind} | {field.name: getattr(baseline, field.name) for field in fields(baseline)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    if arrays:
        save_file(arrays, folder / WEIGHTS)
    write_json({name: value for name, value in values.items() if name not in arrays}, folder / DESCRIPTION)


def load_baseline(folder: str | Path) -> Keyword | Tfidf | Majority:
    """Load what `save_baseline` has left in a folder; a UserError if it is damaged."""
    weights = Path(folder, WEIGHTS)
    try:
        values = json.loads(Path(folder, DESCRIPTION).read_bytes())
        values |= (load_file(weights) if weights.exists() else {}) | {"labels": tuple(values["labels"])}
        return BASELINES[values.pop("kind")](**values)
    except (ValueError, LookupError, TypeError, SafetensorError) as error:
        raise UserError(f"the baseline in {folder} is damaged ({error}): make it anew with baseline.py.") from error
