"""Add labels to batches of a table: what a cluster engine (Ray or Spark) calls in each of its workers."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial

import pyarrow as pa

from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.writers import LABEL_COLUMNS, find_prefix
from smsa.models.loading import BUNDLED, split_names

logger = logging.getLogger(__name__)


def locate(model: str | None) -> str | None:
    """Return a model's name as workers find it: they run in other folders, so a folder becomes an absolute path."""
    if model is None:
        return None
    names = split_names(model)
    places = [os.path.abspath(n) if n not in BUNDLED and os.path.isdir(n) else str(n) for n in names]
    if len(places) > 1 and any("+" in place for place in places):
        raise UserError(f"models are joined with +, so no folder may have one in its path: {', '.join(places)}.")
    return "+".join(places)


class BatchPredictor:
    """Add the columns of scripts/predict.py to batches of rows. Each worker makes one, and so loads the model once.

    A batch is a pyarrow table, a pandas frame or a dict of arrays (as from `datasets.map`); the result has the same
    type. Null and blank texts get null labels and probabilities; in a dict of arrays, None and NaN.

    Args:
        model, revision: as in `SentimentClassifier.from_pretrained`.
        text_column: name of the column of texts.
        labels_only, explain, prefix: as in `PredictionArguments`.
        options: fields of `EngineArguments`; set `num_threads` to the worker's cores, as None takes the machine's.
    """

    def __init__(
        self,
        model: str | None = None,
        revision: str | None = None,
        *,
        text_column: str = "text",
        labels_only: bool = False,
        explain: bool = False,
        prefix: str = "",
        **options: object,
    ):
        given = {"text_column": text_column, "labels_only": labels_only, "explain": explain, "prefix": prefix}
        self._make = partial(type(self), locate(model), revision, **given, **options)
        self._classifier = SentimentClassifier.from_pretrained(model, revision, **options)
        self._text_column, self._labels_only, self._explain, self._prefix = text_column, labels_only, explain, prefix

    def __reduce__(self):
        """Let a worker load the model; its hash keeps `datasets.map` from taking results of another for cached ones."""
        return self._make, (), {"sha256": self._classifier.sha256}

    def __call__(self, batch):
        """Return the batch with the added columns after its own.

        Raises:
            UserError: if the batch lacks the column of texts, or that column holds something else.
        """
        names = batch.column_names if isinstance(batch, pa.Table) else [*batch]
        if names.count(self._text_column) != 1:
            found = f"no column {self._text_column!r}, or more than one. The columns are: {', '.join(map(str, names))}"
            raise UserError(f"{found}. Give one as text_column.")
        texts = self._to_texts(batch[self._text_column])
        added = self._classifier.predict(texts)
        if self._explain:
            added = self._classifier.add_words(texts, added)
        if self._labels_only:
            added = added.select([name for name in added.column_names if name in LABEL_COLUMNS])
        prefix = find_prefix(added.column_names, names, self._prefix)
        added = added.rename_columns([f"{prefix}{name}" for name in added.column_names])
        if isinstance(batch, pa.Table):
            schema = pa.schema([*batch.schema, *added.schema], batch.schema.metadata)
            return pa.Table.from_arrays([*batch.columns, *added.columns], schema=schema)
        arrays = {name: added[name].to_numpy() for name in added.column_names}
        return {**batch, **arrays} if isinstance(batch, Mapping) else batch.assign(**arrays)

    def _to_texts(self, column) -> pa.Array:
        try:
            if isinstance(column, str):  # each letter would be taken for a text
                raise TypeError("it is one text; give batches (datasets.map: batched=True)")
            # value by value, since pandas may hold the column in several chunks
            values = column.to_pylist() if isinstance(column, pa.ChunkedArray) else [*column]
            return pa.array(values, pa.string(), from_pandas=True)
        except (pa.ArrowException, UnicodeError, TypeError) as error:
            what = f"the column {self._text_column!r} must hold texts of valid Unicode"
            raise UserError(f"{what}: {error}.") from error


def find_added(names: Sequence[str], model: str | None, revision: str | None = None, **options: object) -> pa.Schema:
    """Return the columns that a predictor adds; errors such as a missing model appear before any worker starts.

    Args:
        names: all column names, the column of texts included.
        model, revision, options: as in `BatchPredictor`; device, backend and precision are set to what runs anywhere.
    """
    logger.info("Checking the model here first, on the CPU; each worker then runs it with the given options.")
    predictor = BatchPredictor(model, revision, **options | {"device": "cpu", "backend": "torch", "precision": "no"})
    nothing = pa.Table.from_arrays([pa.array([], pa.string())] * len(names), names)
    return pa.schema([*predictor(nothing).schema][len(names) :])
