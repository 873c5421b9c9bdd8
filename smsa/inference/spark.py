"""Rows of a Spark DataFrame -> the same with labels: Spark reads, schedules, retries and writes."""

from collections.abc import Iterator
from functools import cache, partial

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from smsa.errors import UserError
from smsa.inference.batches import BatchPredictor, find_added, locate


def predict(
    df: DataFrame,
    text_column: str = "text",
    model: str | None = None,
    revision: str | None = None,
    **options: object,
) -> DataFrame:
    """Return `df` with the columns that scripts/predict.py adds; they are computed when an action needs them.

    A worker process loads the model once. It uses the cores of a task (`spark.task.cpus`) and the task's GPU
    (`spark.task.resource.gpu.amount`). Every machine must have smsa and the model. The driver checks the model first.

    Args:
        df, text_column: the rows, and their column of texts.
        model, revision, options: as in `BatchPredictor`, such as labels_only, explain and prefix.

    Raises:
        UserError: at once, for a model or option that cannot be used, or a column that holds no texts.
    """
    if dict(df.dtypes).get(text_column) != "string":
        columns = ", ".join(f"{name}: {kind}" for name, kind in df.dtypes)
        raise UserError(f"no column {text_column!r} of strings. The columns are: {columns}. Give one as text_column.")
    options["text_column"] = text_column
    added = from_arrow_schema(find_added(df.columns, model, revision, **options))
    add = partial(_add, locate(model), revision, tuple(options.items()))
    return df.mapInArrow(add, StructType([*df.schema, *added]))


def _add(
    model: str | None, revision: str | None, options: tuple, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    predictor = _load(model, revision, options)
    for batch in batches:
        yield from predictor(pa.Table.from_batches([batch])).to_batches()


@cache  # a worker process serves one task after another
def _load(model: str | None, revision: str | None, options: tuple) -> BatchPredictor:
    task = TaskContext.get()
    of_task = {"num_threads": task.cpus()}
    if "gpu" in task.resources():
        of_task["device"] = f"cuda:{task.resources()['gpu'].addresses[0]}"
    given = {name: value for name, value in options if value is not None}
    return BatchPredictor(model, revision, **of_task | given)
