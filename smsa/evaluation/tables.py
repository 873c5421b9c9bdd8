"""Train, predict or evaluate with one call each, on a table in Python or a file, with the code of the scripts.

A table is from pandas, pyarrow, polars, DuckDB or datasets, or it is a list of texts or of dictionaries, or the path of
a file in any known format.
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDatasetDict
from transformers import set_seed

from smsa.data.datasets import ReadingArguments, encode_splits, load_splits, write_rejects
from smsa.errors import UserError
from smsa.evaluation import report
from smsa.evaluation.systems import load_systems, wrap_classifier
from smsa.files import RUN_RECORD
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.job import predict_files
from smsa.models.loading import DEFAULT, E5, ENCODER, FAST, choose_labels, load_model
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.trainer import SentimentTrainer

Table = pd.DataFrame | Dataset | list[str] | list[dict] | str | os.PathLike
# For small models: the default is for IndoBERT. From recipes/mini.yaml, recipes/scratch.yaml and docs/models.md.
_LEARNING_RATES = {ENCODER: 3e-4, "scratch": 3e-4, FAST: 1e-4, E5: 1e-4}


def _to_file(data: Table, folder: str) -> Path:
    """Return the path of a table; if it is not a file yet, write it to `folder`."""
    if isinstance(data, str | os.PathLike):
        return Path(data).expanduser()
    if isinstance(data, DatasetDict | IterableDatasetDict):
        raise UserError(f"these are several tables ({', '.join(data)}): give one, as data[{next(iter(data), '')!r}].")
    path = Path(folder, "table.parquet")
    try:
        if isinstance(data, Dataset):
            pq.write_table(data.with_format("arrow")[:], path)
        else:
            _to_frame(data).to_parquet(path, index=False)
    except UnicodeEncodeError as error:
        mended = "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        raise UserError(f"{error.object!r} holds half a character (a lone surrogate): {mended} replaces it.") from error
    return path


def _to_frame(data: Table) -> pd.DataFrame:
    """Return a table of any other kind as a frame in which each column has one type."""
    if hasattr(data, "__arrow_c_stream__") and not isinstance(data, pd.DataFrame | pd.Series | pa.ChunkedArray):
        data = pa.table(data)  # from polars, DuckDB or a reader: pandas would take its batches for texts
    if isinstance(data, pa.Table | pa.Array | pa.ChunkedArray):
        data = data.to_pandas(integer_object_nulls=True)  # as floats, large integers would change
    elif isinstance(data, Sequence):  # also a column of datasets
        data = {"text": [*data]} if all(isinstance(row, str | None) for row in data) else [*data]
    frame = pd.DataFrame(data, dtype=None if isinstance(data, pd.DataFrame) else object)
    for name, column in frame.loc[:, frame.dtypes == "object"].items():
        try:
            is_typed = pa.array(column, from_pandas=True).type != pa.null()  # nulls, or no rows, have no type
        except (pa.ArrowException, OverflowError):  # numbers among words become words, as from an Excel file
            is_typed = False
        if not is_typed:
            frame[name] = column.map(str, na_action="ignore").astype("string")
    return frame


def train(data: Table, output_dir: str, model: str = "mini", labels: Sequence[str] | None = None, **options) -> dict:
    """Fine-tune a model on a table and save it; valid is split off from the table.

    Args:
        data: texts and labels.
        output_dir: folder for the model.
        model: what to start from, as in `load_model`.
        labels: names of the labels, a list or comma-separated; None for those of the model, else SmSA's.
        options: of `ReadingArguments` and of `SentimentTrainingArguments`; the default of `learning_rate` depends on
            the model.

    Returns:
        The scores on valid, as `Trainer.evaluate` does.
    """
    given = {name: options.pop(name) for name in ReadingArguments.__dataclass_fields__ if name in options}
    reading = ReadingArguments(**given).reading()
    names = choose_labels(labels if labels is None or isinstance(labels, str) else ",".join(map(str, labels)), model)
    with TemporaryDirectory(prefix="smsa-") as folder:
        splits = load_splits({"train": _to_file(data, folder), "valid": None}, names, **reading)
    if model in _LEARNING_RATES:
        options.setdefault("learning_rate", _LEARNING_RATES[model])
    args = SentimentTrainingArguments(output_dir=output_dir, **options)
    if args.resume or args.seeds or args.pushes_to_hub:
        raise UserError("resume, seeds and push_to_hub go with scripts/finetune.py: leave them out, or run it.")
    if Path(args.output_dir, RUN_RECORD).exists():
        raise UserError(f"{args.output_dir} has a run of a script, with its README.md: choose another output_dir.")
    set_seed(args.seed)  # before the model, whose classification head starts at random
    network, tokenizer = load_model(model, names, train_texts=splits["train"]["text"])
    splits = encode_splits(splits, tokenizer, min(512, tokenizer.model_max_length))
    trainer = SentimentTrainer(network, args, splits["train"], splits["valid"], processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    write_rejects(reading["rejects"], Path(args.output_dir))
    return trainer.evaluate()


def predict(data: Table, model: str | SentimentClassifier | None = None, **options: object) -> pd.DataFrame:
    """Return a table with the columns that `predict_files` adds; a pandas frame keeps its index, names and types.

    If `on_bad_row="skip"` skips rows of a file, the index has the row numbers that the others have in the file.

    Args:
        data: texts, and any other columns.
        model: a loaded classifier, or its folder or name; None for the bundled classifiers together.
        options: of `predict_files`, except `format`.
    """
    if not isinstance(model, SentimentClassifier):
        model = partial(SentimentClassifier.from_pretrained, model)
    data = data.to_frame() if hasattr(data, "to_frame") else data  # a Series
    with TemporaryDirectory(prefix="smsa-") as folder:
        output = Path(folder, "predicted.parquet")
        (summary,) = predict_files(model, _to_file(data, folder), output, format="parquet", **options)
        predicted = pq.read_table(output).to_pandas(integer_object_nulls=True)
        if summary["rejected"]:
            with open(f"{output}.rejects.jsonl") as lines:
                predicted.index = pd.RangeIndex(summary["read"]).drop([json.loads(line)["row"] for line in lines])
    if isinstance(data, pd.DataFrame):
        added = predicted.iloc[:, data.shape[1] :]
        return data.assign(**{name: column.array for name, column in added.items()})
    return predicted


def evaluate(data: Table, model: str | SentimentClassifier = DEFAULT, **options: object) -> dict:
    """Return the content of report.json for a model on a table.

    Args:
        data: texts and labels.
        model: a loaded classifier, its folder or name, or the folder of a baseline.
        options: of `ReadingArguments`.
    """
    reading = ReadingArguments(**options).reading()
    if isinstance(model, SentimentClassifier):
        system = wrap_classifier("model", model, reading["label_map"])
    else:
        (system,) = load_systems([model], label_map=reading["label_map"])
    with TemporaryDirectory(prefix="smsa-") as folder:
        labelled = report.LabelledFile.read(_to_file(data, folder), system.labels, **reading)
        return report.evaluate([system], labelled)
