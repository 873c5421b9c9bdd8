"""Texts in, labels with probabilities out: the model, its tokenizer and an engine behind one call."""

import hashlib
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
from smsa.inference.attribution import weigh_words
from smsa.inference.engine import Engine
from smsa.models.loading import label_names, load_classifier, require_padding

_CHARS_A_TOKEN = 64  # before tokenising, a text is cut to this many characters per token, if its tokens stay the same
_NOTHING = r"^[\pZ\pC\s]*$"  # white space and invisible characters, such as U+200B
_NO_LIMIT = 10**6  # transformers' model_max_length is 10**30 if the tokenizer does not state one


class SentimentClassifier:
    """A fine-tuned model that labels texts: one, a list, or an endless stream.

    Args:
        model: a sequence classifier. It is converted to fp32 in place, and the engine may change it further.
        tokenizer: a fast tokenizer.
        max_length: maximum tokens per text, special tokens included; longer texts are truncated and marked so. None
            for the tokenizer's `model_max_length`; in a model of smsa, this is the length it was trained with.
        engine: options of `EngineArguments`: device, precision, backend, num_threads, batch_tokens.

    Attributes:
        labels: label names in the order of the model's ids.
        engine: the `Engine` that runs the model.
        max_length: the maximum in effect.
        sha256: hash of everything in the model that predictions depend on: weights, configuration, tokenizer.
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
            raise UserError("the model predicts a number, or several labels, for a text; smsa needs one label for it.")
        require_padding(model.float().cpu(), tokenizer)  # the model may come on a GPU or in bf16
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
        self._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy, whose settings we change
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
            TypeError: for a table, which would yield the names of its columns; for one text, which would yield its
                letters; and for an item that is not a text.
        """
        is_table = isinstance(texts, Mapping) or hasattr(texts, "columns") or hasattr(texts, "column_names")
        if is_table or isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise TypeError(
                f"a {type(texts).__name__} is not a list of texts: give any iterable of str, such as table['text']."
            )
        # pandas writes large_string columns to Parquet; pa.array() does not accept their scalars as strings
        texts = (text.as_py() for text in texts) if isinstance(texts, pa.Array | pa.ChunkedArray) else iter(texts)
        while chunk := list(islice(texts, self.engine.chunk_rows)):
            try:
                column = pa.array(chunk, pa.string(), from_pandas=True)
            except (pa.ArrowException, UnicodeError) as error:
                raise TypeError(f"a text must be a str of valid Unicode, or None: {error}.") from error
            yield from self.predict(column).to_pylist()

    def predict(self, texts: pa.Array) -> pa.Table:
        """Return what `classify` returns for one chunk of texts; the last bits of probabilities depend on the chunk."""
        return self.classify(*self.encode(texts))

    def encode(self, texts: pa.Array) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Tokenise one chunk of strings, equal ones once; null, blank and invisible ones count as the empty text.

        Returns:
            `token_ids`: for each different text, its token ids, special tokens included; `truncated`: whether that text
            was truncated, (n_different,) of bool; `index`: which of the different texts each text is, (n_texts,).
        """
        texts = pc.if_else(pc.match_substring_regex(texts, _NOTHING), "", texts).fill_null("")
        entries = texts.dictionary_encode()
        different = entries.dictionary.to_pylist()
        limit = _CHARS_A_TOKEN * self.max_length if self._truncates_end else math.inf
        long = [i for i, text in enumerate(different) if len(text) > limit]
        heads = list(different)
        for i in long:  # tokenise only the head, without its last word, which may be cut
            heads[i] = "".join(different[i][:limit].rsplit(maxsplit=1)[:-1])
        encodings = self._tokenizer.encode_batch_fast(heads)
        for i in long:
            # Tokens do not cross white space, so a head with more than max_length tokens begins as the whole text does.
            # (mini joins `nya` to the word before it; this can only change the last word of a head.)
            if not encodings[i].overflowing:
                encodings[i] = self._tokenizer.encode(different[i])
        token_ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        truncated = [len(encoding) == self.max_length and bool(encoding.overflowing) for encoding in encodings]
        return token_ids, np.array(truncated, dtype=bool), entries.indices.to_numpy()

    def classify(self, token_ids: list[np.ndarray], truncated: np.ndarray, index: np.ndarray) -> pa.Table:
        """Run the model over what `encode` returns.

        Returns:
            `label`, `score`, `p_<label>` for each label, `truncated` and `empty`. A text that has only special tokens
            is empty: its label, score and probabilities are null.

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
            label: the label to explain; None for the predicted one.

        Returns:
            `label`; `log_odds`, log(p / (1 - p)) of its probability p; `no_words`, the log-odds for a text without
            words; and `words` in the order of the text, each with `word`, `start` and `end` (positions in the text) and
            `weight`. The weights add up to log_odds - no_words. Words beyond `max_length` tokens are missing.

        Raises:
            UserError: if the model has no such label, or the text has no token.
        """
        predicted = self(text)["label"]
        if predicted is None:
            raise UserError("the text is empty: there is no word to explain.")
        label = predicted if label is None else label
        if label not in self.labels:
            raise UserError(f"label {label!r} is not one of {', '.join(self.labels)}.")
        encoding = self._tokenizer.encode(text)
        return {"label": label} | weigh_words(self.engine, text, encoding, self.labels.index(label))

    def add_words(self, texts: pa.Array, added: pa.Table) -> pa.Table:
        """Add a column `words` to what `predict` has returned for `texts`; it is null where there is no label.

        A cell is a JSON list with [word, start, end, weight] for each word, weights rounded to four decimals.
        """

        @cache
        def explain(text: str, label: str) -> str:
            words = self.explain(text, label)["words"]
            listed = [[word["word"], word["start"], word["end"], round(word["weight"], 4)] for word in words]
            return json.dumps(listed, ensure_ascii=False)

        pairs = zip(texts.to_pylist(), added["label"].to_pylist(), strict=True)
        words = [label and explain(text, label) for text, label in pairs]
        return added.append_column("words", pa.array(words, pa.string()))
