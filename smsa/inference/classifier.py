"""Texts in, labels with probabilities out: the model, its tokenizer and an engine behind one call."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import softmax
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from smsa.data.labels import label_names
from smsa.distributed import is_main
from smsa.errors import UserError
from smsa.inference.engine import Engine
from smsa.models.bundled import CLASSIFIER, introduce_classifier
from smsa.models.loading import load_classifier

logger = logging.getLogger(__name__)

_CHARS_A_TOKEN = 64  # a text is cut at so many times its tokens before it is tokenised, if that cannot be seen
_NO_LIMIT = 10**6  # transformers states 10**30 where a tokenizer does not say how many tokens its model reads


@dataclass(frozen=True)
class Encoded:
    """Tokens of some texts; equal texts share one entry."""

    token_ids: list[np.ndarray]  # of each different text; special tokens included
    truncated: np.ndarray  # (n_different,) of bool
    empty: np.ndarray  # (n_different,) of bool: blank, or nothing left after the tokenizer's normalisation
    index: np.ndarray  # (n_texts,): which entry is the text's own


@dataclass(frozen=True)
class Predictions:
    """What a model says of some texts, as columns."""

    labels: tuple[str, ...]
    probabilities: np.ndarray  # (n_texts, n_labels) of float64; NaN where the text is empty
    truncated: np.ndarray  # (n_texts,) of bool
    empty: np.ndarray  # (n_texts,) of bool
    words: list[str | None] | None = None  # (n_texts,), JSON: see `SentimentClassifier.explain_all`

    @property
    def label_ids(self) -> np.ndarray:
        """Id of the most probable label, of shape (n_texts,); 0 where the text is empty."""
        return np.where(self.empty, 0, self.probabilities.argmax(-1))

    def to_table(self, prefix: str = "", labels_only: bool = False) -> pa.Table:
        """Return `label`, `score`, `p_<label>`s, `truncated` and `empty`, or `label` only; and any `words`.

        An empty text has no label, score or probabilities: they are null.
        """
        best = self.label_ids
        names = pa.DictionaryArray.from_arrays(pa.array(best, mask=self.empty), list(self.labels))
        columns = {"label": names.cast(pa.string())}
        if not labels_only:
            columns["score"] = pa.array(self.probabilities[np.arange(len(best)), best], mask=self.empty)
            for i, label in enumerate(self.labels):
                columns[f"p_{label}"] = pa.array(self.probabilities[:, i], mask=self.empty)
            columns |= {"truncated": pa.array(self.truncated), "empty": pa.array(self.empty)}
        if self.words is not None:
            columns["words"] = pa.array(self.words, pa.string())
        return pa.table({f"{prefix}{name}": column for name, column in columns.items()})


def added_columns(
    labels: tuple[str, ...], prefix: str = "", labels_only: bool = False, explain: bool = False
) -> pa.Schema:
    """Return the columns that prediction adds, with their types."""
    none, words = np.zeros(0, dtype=bool), [] if explain else None
    return Predictions(labels, np.zeros((0, len(labels))), none, none, words).to_table(prefix, labels_only).schema


class SentimentClassifier:
    """A fine-tuned model that labels texts: one, a list, or a stream without end.

    Args:
        model: a sequence classifier in fp32; the classifier takes it over and may change it.
        tokenizer: a fast tokenizer.
        max_length: tokens of a text, special tokens included; longer texts are truncated and say so. None for the
            tokenizer's `model_max_length`, which is the length of training in a model of smsa.
        engine: the options of `Engine`: device, precision, backend, num_threads, batch_tokens.

    Attributes:
        labels: label names in the order of the model's ids.
        engine: where and how it runs.
        max_length: what is in effect.
        sha256: of all that predictions depend on in the model: weights, configuration, tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        **engine: object,
    ):
        self.labels = label_names(model.config.id2label)
        if len(set(self.labels)) < len(self.labels):
            raise UserError(f"the model gives two labels the same name: {', '.join(self.labels)}.")
        if tokenizer.padding_side == "left":
            raise UserError(f"{type(model).__name__} needs its padding on the left, which smsa does not do.")
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UserError(
                f"{type(tokenizer).__name__} is a slow tokenizer, written in Python, which smsa does not predict with: "
                "save the model with a fast one, which has a tokenizer.json."
            )
        limit = tokenizer.model_max_length
        if limit > _NO_LIMIT:  # it states none
            limit = 512
        self.max_length = limit if max_length is None else min(max_length, limit)
        self._n_special = tokenizer.num_special_tokens_to_add()
        if self.max_length <= self._n_special:
            raise UserError(f"max_length is {max_length}; it must be more than the {self._n_special} special tokens.")
        self.sha256 = _hash_model(model, tokenizer)
        self.engine = Engine(model, **engine)
        self._truncates_end = tokenizer.truncation_side == "right"
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # ours to set up
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, direction=tokenizer.truncation_side)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | None = None,
        revision: str | None = None,
        *,
        max_length: int | None = None,
        **engine: object,
    ) -> "SentimentClassifier":
        """Load a model folder, or a model of the Hub; with no name, mini-sentiment, which comes with smsa.

        Args:
            model_name_or_path, revision: as in `load_classifier`, which also says what is refused.
            max_length, engine: as in the class.
        """
        if model_name_or_path is None:
            model_name_or_path = CLASSIFIER
            if is_main():
                logger.warning(introduce_classifier())
        return cls(*load_classifier(model_name_or_path, revision), max_length, **engine)

    def __call__(self, texts: str | None | Iterable[str | None]) -> dict | list[dict]:
        """Label one text, or several: `label`, `score`, `p_<label>`, `truncated`, `empty` for each, in order.

        None and NaN are empty texts.

        Raises:
            TypeError: as `stream`.
        """
        if texts is None or isinstance(texts, str | float):
            return self([texts])[0]
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str | None]) -> Iterator[dict]:
        """Label texts as they come, `engine.chunk_rows` at a time: memory does not grow with their number.

        None and NaN are empty texts.

        Raises:
            TypeError: for a whole table, whose columns' names are what it would give, for one text, whose letters are,
                and for what is not a text.
        """
        is_table = isinstance(texts, Mapping) or hasattr(texts, "columns")
        if is_table or isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise TypeError(
                f"a {type(texts).__name__} is not a list of texts: give any iterable of str, such as table['text']."
            )
        texts = iter(texts)
        while chunk := list(islice(texts, self.engine.chunk_rows)):
            try:
                column = pa.array(chunk, pa.string(), from_pandas=True)
            except (pa.ArrowException, UnicodeError) as error:
                raise TypeError(f"a text must be a str of whole characters, or None: {error}.") from error
            yield from self.predict(column).to_table().to_pylist()

    def predict(self, texts: pa.Array) -> Predictions:
        """Label one chunk of texts; probabilities depend on the chunk in the last bits."""
        return self.classify(self.encode(texts))

    def encode(self, texts: pa.Array) -> Encoded:
        """Tokenise one chunk of strings; null is an empty text."""
        entries = texts.fill_null("").dictionary_encode()
        different = entries.dictionary
        blank = np.asarray(pc.equal(pc.utf8_trim_whitespace(different), ""))
        encodings = self._tokenize(different.to_pylist())
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        truncated = np.zeros(len(encodings), dtype=bool)
        for i in np.flatnonzero(lengths == self.max_length):
            truncated[i] = bool(encodings[i].overflowing)
        return Encoded(
            token_ids=[np.array(encoding.ids, dtype=np.int64) for encoding in encodings],
            truncated=truncated,
            empty=blank | (lengths <= self._n_special),
            index=entries.indices.to_numpy(),
        )

    def _tokenize(self, texts: list[str], with_offsets: bool = False) -> list[Encoding]:
        """Tokenise texts; of a very long one only as much as decides the tokens that are kept."""
        limit = _CHARS_A_TOKEN * self.max_length
        encode = self._tokenizer.encode_batch if with_offsets else self._tokenizer.encode_batch_fast
        heads = list(texts)
        for i, text in enumerate(texts):
            if len(text) > limit and self._truncates_end:
                words = text[:limit].rsplit(maxsplit=1)
                heads[i] = words[0] if len(words) == 2 else ""  # the last word may be cut
        encodings = encode(heads)
        for i, text in enumerate(texts):
            # Tokens do not cross white space, so a head that overflows has the tokens that the whole text would have
            # (mini joins `nya` to the word before, which matters to the last word of a head only).
            if len(text) > limit and not encodings[i].overflowing:
                encodings[i] = encode([text])[0]
        return encodings

    def classify(self, encoded: Encoded) -> Predictions:
        """Run the model over tokenised texts.

        Raises:
            UserError: if a logit is not a finite number.
        """
        full = np.flatnonzero(~encoded.empty)
        probabilities = np.full((len(encoded.token_ids), len(self.labels)), np.nan)
        if len(full):
            logits = self.engine.run([encoded.token_ids[i] for i in full])
            if not np.isfinite(logits).all():
                raise UserError(
                    f"the model gave logits that are not finite in precision {self.engine.precision}; try another one, "
                    "for example --precision no, or check its weights."
                )
            probabilities[full] = softmax(logits.astype(np.float64), axis=-1)
        index = encoded.index
        return Predictions(self.labels, probabilities[index], encoded.truncated[index], encoded.empty[index])

    def explain(self, text: str, label: str | None = None) -> dict:
        """Return which words of a text pushed it towards a label, and which away from it.

        Args:
            text: the text.
            label: for which label; None for the one that the text gets.

        Returns:
            `label`; `log_odds`, log(p / (1 - p)) of its probability p; `no_words`, the same of a text without words;
            and `words`, in order: of each its `word`, `start` and `end` in the text, and `weight`. The weights sum up
            to log_odds - no_words, within `smsa.inference.attribution.TOLERANCE`. What a long text has beyond
            `max_length` tokens has no words here.

        Raises:
            UserError: for a label that the model does not have, or a text that holds no token; without captum.
            TypeError: for what is not one text.
        """
        require_captum()
        from smsa.inference.attribution import weigh_words  # captum takes a second, and only some have it

        if not isinstance(text, str):
            raise TypeError(f"a text must be a str, not {type(text).__name__}.")
        if label is not None and label not in self.labels:
            raise UserError(f"label {label!r} is not one of {', '.join(self.labels)}.")
        (encoding,) = self._tokenize([text], with_offsets=True)
        if not text.strip() or len(encoding) <= self._n_special:
            raise UserError("the text is empty: there is no word to explain.")
        label = label or self(text)["label"]
        words, log_odds, no_words = weigh_words(self.engine, encoding, self.labels.index(label))
        described = []
        for start, end, weight in words:
            start = end - len(text[start:end].lstrip())  # byte-level tokenizers count the space before, too
            described.append({"word": text[start:end], "start": start, "end": end, "weight": weight})
        return {"label": label, "log_odds": log_odds, "no_words": no_words, "words": described}

    def explain_all(self, texts: pa.Array, predictions: Predictions) -> Predictions:
        """Return the predictions with `words`: of each text the word, start, end and weight of its words, as JSON.

        Null for an empty text. Weights have four decimals.
        """
        known: dict[str, str] = {}
        rows = list(zip(texts.to_pylist(), predictions.empty, predictions.label_ids, strict=True))
        for text, is_empty, label_id in rows:
            if not is_empty and text not in known:
                words = self.explain(text, self.labels[label_id])["words"]
                listed = [[word["word"], word["start"], word["end"], round(word["weight"], 4)] for word in words]
                known[text] = json.dumps(listed, ensure_ascii=False)
        return replace(predictions, words=[None if is_empty else known[text] for text, is_empty, _ in rows])


def require_captum() -> None:
    """Refuse to explain without captum.

    Raises:
        UserError: with the way out.
    """
    if importlib.util.find_spec("captum") is None:
        raise UserError("explanations need captum: pip install -e '.[explain]'.")


def _hash_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    config = model.config.to_dict()
    described = {name: config[name] for name in sorted(config) if name not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps([described, tokenizer.truncation_side], default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.contiguous().numpy().data)
    return digest.hexdigest()
