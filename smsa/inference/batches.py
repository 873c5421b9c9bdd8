"""Batches of a table in, the same with labels out: what an engine of many machines calls in each of its workers."""

import logging
import os
from collections.abc import Mapping, Sequence

import pyarrow as pa

from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier, require_captum
from smsa.inference.writers import LABEL_COLUMNS, find_prefix

logger = logging.getLogger(__name__)


def locate(model: str | None) -> str | None:
    """Return the name of a model as workers find it, which run in other folders."""
    return os.path.abspath(model) if model and os.path.isdir(model) else model


class BatchPredictor:
    """Adds to batches of rows what predict.py adds to files; one for each worker, which loads the model once.

    A batch is a pyarrow table, a pandas frame or a dict of arrays, as of `datasets.map`, and so is what comes back.
    Null and blank texts have null labels and probabilities; in a dict of arrays, None and NaN.

    Args:
        model, revision: as in `SentimentClassifier.from_pretrained`.
        text_column: name of the column of texts.
        labels_only, explain, prefix: as in `PredictionArguments`.
        options: max_length and those of the engine. Give the cores of the worker as `num_threads`; if not given, all of
            the machine are used.
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
        if explain:
            require_captum()
        self._classifier = SentimentClassifier.from_pretrained(model, revision, **options)
        self._text_column, self._labels_only, self._explain, self._prefix = text_column, labels_only, explain, prefix

    def __call__(self, batch):
        """Return the batch with the added columns behind its own.

        Raises:
            UserError: if there is no such column, or what it holds is not texts.
        """
        names = batch.column_names if isinstance(batch, pa.Table) else [*batch]
        if self._text_column not in names:
            listed = ", ".join(map(str, names))
            raise UserError(f"no column {self._text_column!r}: give text_column. The columns are: {listed}.")
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
            if isinstance(column, str):  # whose letters would be texts
                raise TypeError("it is one text; give batches, datasets' map with batched=True")
            # one by one, for pandas may hold them in several chunks
            values = column.to_pylist() if isinstance(column, pa.ChunkedArray) else [*column]
            return pa.array(values, pa.string(), from_pandas=True)
        except (pa.ArrowException, UnicodeError, TypeError) as error:
            what = f"the column {self._text_column!r} must hold texts of whole characters"
            raise UserError(f"{what}: {error}.") from error


def find_added(names: Sequence[str], model: str | None, revision: str | None = None, **options: object) -> pa.Schema:
    """Return what a predictor adds to columns of these names: a driver knows it at once, as that a model is not there.

    Args:
        names: of all columns, that of the texts with them.
        model, revision, options: as in `BatchPredictor`, of which the engine is one that every driver has.
    """
    logger.info("The model is tried here first, on the CPU; each worker then runs it as it was asked for.")
    predictor = BatchPredictor(model, revision, **options | {"device": "cpu", "backend": "torch", "precision": "no"})
    nothing = pa.Table.from_arrays([pa.array([], pa.string())] * len(names), names)
    return pa.schema([*predictor(nothing).schema][len(names) :])
