"""Texts in, labels with probabilities out: one or more models, their tokenizers and engines behind one call."""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from smsa.models.loading import DEFAULT, FAST, label_names, load_classifier, require_padding, split_names

logger = logging.getLogger(__name__)

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
        self._nothing = [tokenizer.pad_token_id]  # what a model without special tokens reads of a text without words
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
        """Load a model folder or a model of the Hub; several, joined by +, become a `SentimentEnsemble`.

        Args:
            model_name_or_path: None for `DEFAULT`, the bundled classifiers together.
            revision: branch, tag or commit on the Hub.
            options: max_length and those of the engine, as in the class.

        Raises:
            UserError, OSError: as `load_classifier`, and as the classes.
        """
        if model_name_or_path is None:
            logger.warning(
                f"No model was named: this is {DEFAULT}, the mean of both classifiers that come with smsa; {FAST} "
                "alone is several times as fast. docs/models.md says how good they are, and where they fail."
            )
        names = split_names(DEFAULT if model_name_or_path is None else model_name_or_path)
        members = [cls(*load_classifier(name, revision), **options) for name in names]
        return SentimentEnsemble(members) if len(members) > 1 else members[0]

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

    def encode(self, texts: pa.Array) -> tuple[Sequence, np.ndarray, np.ndarray, np.ndarray]:
        """Tokenise one chunk of strings, equal ones once; null, blank and invisible ones count as the empty text.

        Returns:
            `tokens`: for each different text what `compute_probabilities` takes, here its token ids, special tokens
            included; `truncated`: whether that text was truncated, and `empty`: whether it has only special tokens,
            (n_different,) of bool; `index`: which of the different texts each text is, (n_texts,).
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
        tokens = [np.array(encoding.ids or self._nothing, dtype=np.int64) for encoding in encodings]
        truncated = [len(encoding) == self.max_length and bool(encoding.overflowing) for encoding in encodings]
        empty = [len(encoding) <= self._n_special for encoding in encodings]
        return tokens, np.array(truncated, dtype=bool), np.array(empty, dtype=bool), entries.indices.to_numpy()

    def compute_probabilities(self, tokens: Sequence) -> np.ndarray:
        """Return the probabilities of labels, (n_texts, n_labels), for the tokens of each text, as `encode` has them.

        Raises:
            UserError: if a logit is not a finite number.
        """
        logits = self.engine.run(tokens)
        if not np.isfinite(logits).all():
            precision = self.engine.precision
            way_out = "check its weights" if precision == "no" else "give --precision no, or check its weights"
            raise UserError(f"the model gave logits that are not finite in precision {precision}: {way_out}.")
        return softmax(logits.astype(np.float64), axis=-1)

    def classify(self, tokens: Sequence, truncated: np.ndarray, empty: np.ndarray, index: np.ndarray) -> pa.Table:
        """Run the model over what `encode` returns.

        Returns:
            `label`, `score`, `p_<label>` for each label, `truncated` and `empty`. The label, score and probabilities of
            an empty text are null.

        Raises:
            UserError: as `compute_probabilities`.
        """
        probabilities = np.zeros((len(tokens), len(self.labels)))
        if not empty.all():
            probabilities[~empty] = self.compute_probabilities([tokens[i] for i in np.flatnonzero(~empty)])
        label_ids = pa.array(probabilities.argmax(-1), mask=empty)
        columns = {
            "label": pa.DictionaryArray.from_arrays(label_ids, list(self.labels)).cast(pa.string()),
            "score": pa.array(probabilities.max(-1), mask=empty),
        }
        for label, of_label in zip(self.labels, probabilities.T, strict=True):
            columns[f"p_{label}"] = pa.array(of_label, mask=empty)
        return pa.table(columns | {"truncated": truncated, "empty": empty}).take(index)

    def find_words(self, text: str) -> list[tuple[int, int]]:
        """Return start and end of each word that the model reads, punctuation included, in the order of the text."""
        encoding, words = self._tokenizer.encode(text), []
        for number in sorted({*encoding.word_ids} - {None}):
            start, end = encoding.word_to_chars(number)
            start = end - len(text[start:end].lstrip())  # byte-level tokenizers include the space before a word
            # of a word that a normaliser replaced as a whole, such as a place, tokenizers knows the last letter only
            least = words[-1][1] if words else 0
            while start > least and (text[start - 1].isalnum() or text[start - 1] in ".,"):
                start -= 1
            words.append((start, end))
        return words

    def explain(self, text: str, label: str | None = None) -> dict:
        """Return which words of a text pushed it towards a label, and which away from it.

        Args:
            text: the text.
            label: the label to explain; None for the predicted one.

        Returns:
            `label`; `log_odds`, log(p / (1 - p)) of its probability p; `no_words`, the log-odds for a text without
            words; and `words` in the order of the text, each with `word`, `start` and `end` (positions in the text) and
            `weight`. The weights add up to log_odds - no_words. Words beyond `max_length` tokens are missing; of a
            text that is truncated, an ensemble explains what all members have read.

        Raises:
            UserError: if the model has no such label, or the text has no token.
        """
        predicted = self(text)["label"]
        if predicted is None:
            raise UserError("the text is empty: there is no word to explain.")
        label = predicted if label is None else label
        if label not in self.labels:
            raise UserError(f"label {label!r} is not one of {', '.join(self.labels)}.")

        def compute_log_odds(texts: list[str]) -> np.ndarray:  # of the label, (n_texts,)
            tokens, _, _, index = self.encode(pa.array(texts))
            probabilities = np.maximum(self.compute_probabilities(tokens)[index], np.finfo(float).tiny)  # no log of 0
            label_id = self.labels.index(label)
            return np.log(probabilities[:, label_id]) - np.log(np.delete(probabilities, label_id, axis=-1).sum(-1))

        return {"label": label} | weigh_words(compute_log_odds, text, self.find_words(text))

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


class SentimentEnsemble(SentimentClassifier):
    """Several classifiers as one: a probability is the mean of theirs, and a text that one finds empty is empty.

    Args:
        members: classifiers whose labels are the same, in the same order.

    Attributes:
        members: the same.
        labels, engine: of the first member; records of a run have its backend and precision.
        max_length: the least of theirs; each member truncates at its own.
        sha256: hash of theirs, and of each maximum.
    """

    def __init__(self, members: Sequence[SentimentClassifier]):
        self.members, self.labels, self.engine = members, members[0].labels, members[0].engine
        for member in members:
            if member.labels != self.labels:
                both = f"{', '.join(self.labels)} and {', '.join(member.labels)}"
                raise UserError(f"models that are joined need the same labels in the same order; these have {both}.")
        self.max_length = min(member.max_length for member in members)
        described = [(member.sha256, member.max_length) for member in members]
        self.sha256 = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def encode(self, texts: pa.Array) -> tuple[Sequence, np.ndarray, np.ndarray, np.ndarray]:
        """Tokenise as each member does; the tokens of a text are a tuple of theirs."""
        tokens, truncated, empty, (index, *_) = zip(*(member.encode(texts) for member in self.members), strict=True)
        return [*zip(*tokens, strict=True)], np.any(truncated, axis=0), np.any(empty, axis=0), index

    def compute_probabilities(self, tokens: Sequence) -> np.ndarray:
        """Return the mean of the members' probabilities, as in `SentimentClassifier`."""
        by_member = zip(self.members, zip(*tokens, strict=True), strict=True)
        return np.mean([member.compute_probabilities(its_tokens) for member, its_tokens in by_member], axis=0)

    def find_words(self, text: str) -> list[tuple[int, int]]:
        """Return the words of the member that reads least of the text."""
        return min((member.find_words(text) for member in self.members), key=lambda words: words[-1][1])
