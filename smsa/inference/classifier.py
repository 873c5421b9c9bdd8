"""Texts in, labels with probabilities out: the model, its tokenizer and an engine behind one call."""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import softmax
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from smsa.errors import UserError
from smsa.inference.engine import Engine
from smsa.models.loading import label_names, load_classifier, require_padding

_CHARS_A_TOKEN = 64  # a text is cut at so many times its tokens before it is tokenised, if that cannot be seen
_NOTHING = r"^[\pZ\pC\s]*$"  # blanks, and what cannot be seen, as U+200B
_NO_LIMIT = 10**6  # transformers states 10**30 where a tokenizer does not say how many tokens its model reads


class SentimentClassifier:
    """A fine-tuned model that labels texts: one, a list, or a stream without end.

    Args:
        model: a sequence classifier; the classifier takes it over, makes it fp32 and may change it.
        tokenizer: a fast tokenizer.
        max_length: tokens of a text, special tokens included; longer texts are truncated and say so. None for the
            tokenizer's `model_max_length`, which is the length of training in a model of smsa.
        engine: options of `EngineArguments`: device, precision, backend, num_threads, batch_tokens.

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
        if len(self.labels) < 2 or model.config.problem_type not in (None, "single_label_classification"):
            raise UserError("the model gives a number, or several labels, for a text: smsa needs it to give one label.")
        require_padding(model.float().cpu(), tokenizer)  # what was trained on a GPU, or saved in bf16, may come as that
        limit = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else 512
        self.max_length = limit if max_length is None else min(max_length, limit)
        self._n_special = tokenizer.num_special_tokens_to_add()
        if self.max_length <= self._n_special:
            raise UserError(f"max_length is {max_length}; it must be more than the {self._n_special} special tokens.")
        config = model.config.to_dict()
        described = {key: config[key] for key in sorted(config) if key not in ("_name_or_path", "transformers_version")}
        digest = hashlib.sha256(json.dumps([described, tokenizer.truncation_side], default=str).encode())
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
        for name, weights in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weights.contiguous().numpy().data)
        self.sha256 = digest.hexdigest()
        self.engine = Engine(model, **engine)
        self._truncates_end = tokenizer.truncation_side == "right"
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # ours to set up
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_length, direction=tokenizer.truncation_side)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: str | None = None, revision: str | None = None, **options: object
    ) -> "SentimentClassifier":
        """Load a model folder, or a model of the Hub; with no name, e5-sentiment, which comes with smsa.

        Args:
            model_name_or_path, revision: as in `load_classifier`, which also says what is refused.
            options: max_length and those of the engine, as in the class.
        """
        name = model_name_or_path and os.path.expanduser(model_name_or_path)
        return cls(*load_classifier(name, revision), **options)

    def __reduce__(self):
        raise TypeError("a classifier cannot be pickled: send a worker the name of the model, and load it there.")

    def __call__(self, texts: str | None | Iterable[str | None]) -> dict | list[dict]:
        """Label one text, or several: `label`, `score`, `p_<label>`, `truncated`, `empty` for each, in order.

        None, NaN and pandas' NA are empty texts.

        Raises:
            TypeError: as `stream`.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            return self([texts])[0]
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str | None]) -> Iterator[dict]:
        """Label texts as they come, `engine.chunk_rows` at a time: memory does not grow with their number.

        Raises:
            TypeError: for a whole table, whose columns' names are what it would give, for one text, whose letters are,
                and for what is not a text.
        """
        is_table = isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names")
        if is_table or isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise TypeError(
                f"a {type(texts).__name__} is not a list of texts: give any iterable of str, such as table['text']."
            )
        # pandas writes large strings to Parquet, which pyarrow does not take for strings one by one
        texts = (text.as_py() for text in texts) if isinstance(texts, pa.Array | pa.ChunkedArray) else iter(texts)
        while chunk := list(islice(texts, self.engine.chunk_rows)):
            try:
                column = pa.array(chunk, pa.string(), from_pandas=True)
            except (pa.ArrowException, UnicodeError) as error:
                raise TypeError(f"a text must be a str of whole characters, or None: {error}.") from error
            yield from self.predict(column).to_pylist()

    def predict(self, texts: pa.Array) -> pa.Table:
        """Label one chunk of texts, as `classify` does; probabilities depend on the chunk in the last bits."""
        return self.classify(*self.encode(texts))

    def encode(self, texts: pa.Array) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Tokenise one chunk of strings, equal ones once; null, blank and invisible ones are the empty text.

        Returns:
            `(token_ids, truncated, index)`: ids of each different text's tokens, special tokens included; whether it
            was truncated, (n_different,) of bool; and which of them each text is, (n_texts,).
        """
        texts = pc.if_else(pc.match_substring_regex(texts, _NOTHING), "", texts).fill_null("")
        entries = texts.dictionary_encode()
        different = entries.dictionary.to_pylist()
        limit = _CHARS_A_TOKEN * self.max_length if self._truncates_end else math.inf
        long = [i for i, text in enumerate(different) if len(text) > limit]
        heads = list(different)
        for i in long:  # only as much is tokenised as decides the tokens that are kept, without a word that may be cut
            heads[i] = "".join(different[i][:limit].rsplit(maxsplit=1)[:-1])
        encodings = self._tokenizer.encode_batch_fast(heads)
        for i in long:
            # Tokens do not cross white space, so a head that overflows has the tokens that the whole text would have
            # (mini joins `nya` to the word before, which matters to the last word of a head only).
            if not encodings[i].overflowing:
                encodings[i] = self._tokenizer.encode(different[i])
        token_ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        truncated = [len(encoding) == self.max_length and bool(encoding.overflowing) for encoding in encodings]
        return token_ids, np.array(truncated, dtype=bool), entries.indices.to_numpy()

    def classify(self, token_ids: list[np.ndarray], truncated: np.ndarray, index: np.ndarray) -> pa.Table:
        """Run the model over what `encode` returns.

        Returns:
            `label`, `score`, `p_<label>` for each label, `truncated` and `empty`. A text without any token of its own
            is empty: it has no label, score or probabilities, which are null.

        Raises:
            UserError: if a logit is not a finite number.
        """
        empty = np.array([len(ids) <= self._n_special for ids in token_ids], dtype=bool)
        probabilities = np.zeros((len(token_ids), len(self.labels)))
        if not empty.all():
            logits = self.engine.run([ids for ids, is_empty in zip(token_ids, empty, strict=True) if not is_empty])
            if not np.isfinite(logits).all():
                precision = self.engine.precision
                way_out = "check its weights" if precision == "no" else "give --precision no, or check its weights"
                raise UserError(f"the model gave logits that are not finite in precision {precision}: {way_out}.")
            probabilities[~empty] = softmax(logits.astype(np.float64), axis=-1)
        label_ids = pa.array(probabilities.argmax(-1), mask=empty)
        columns = {
            "label": pa.DictionaryArray.from_arrays(label_ids, list(self.labels)).cast(pa.string()),
            "score": pa.array(probabilities.max(-1), mask=empty),
        }
        for label, of_label in zip(self.labels, probabilities.T, strict=True):
            columns[f"p_{label}"] = pa.array(of_label, mask=empty)
        return pa.table(columns | {"truncated": truncated, "empty": empty}).take(index)

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
        """
        require_captum()
        from smsa.inference.attribution import weigh_words  # captum takes a second, and only some have it

        predicted = self(text)["label"]
        if predicted is None:
            raise UserError("the text is empty: there is no word to explain.")
        label = predicted if label is None else label
        if label not in self.labels:
            raise UserError(f"label {label!r} is not one of {', '.join(self.labels)}.")
        encoding = self._tokenizer.encode(text)
        return {"label": label} | weigh_words(self.engine, text, encoding, self.labels.index(label))

    def add_words(self, texts: pa.Array, added: pa.Table) -> pa.Table:
        """Add to what `predict` returns of texts the column `words`, null where there is no label.

        It has the word, start, end and weight of each word, as JSON, weights with four decimals.
        """

        @cache
        def explain(text: str, label: str) -> str:
            words = self.explain(text, label)["words"]
            listed = [[word["word"], word["start"], word["end"], round(word["weight"], 4)] for word in words]
            return json.dumps(listed, ensure_ascii=False)

        pairs = zip(texts.to_pylist(), added["label"].to_pylist(), strict=True)
        words = [label and explain(text, label) for text, label in pairs]
        return added.append_column("words", pa.array(words, pa.string()))


def require_captum() -> None:
    """Refuse to explain without captum, with the way out."""
    if importlib.util.find_spec("captum") is None:
        raise UserError("explanations need captum: pip install -e '.[explain]'.")
