"""A table in Python, or a file -> a trained model, predictions, a report: each in one call, by the code of the scripts.

A table is one of pandas, pyarrow, polars, DuckDB or datasets, a list of texts or of dictionaries, or the path of a file
of any known format.
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
from smsa.models.loading import CLASSIFIER, ENCODER, FAST, choose_labels, load_model
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.trainer import SentimentTrainer

Table = pd.DataFrame | Dataset | list[str] | list[dict] | str | os.PathLike
# Of small models, where the default is IndoBERT's; recipes/mini.yaml and scratch.yaml, docs/models.md
_LEARNING_RATES = {ENCODER: 3e-4, "scratch": 3e-4, FAST: 1e-4, CLASSIFIER: 1e-4}


def _to_file(data: Table, folder: str) -> Path:
    """Return the path of a table, which is written into a folder where it is none yet."""
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
        raise UserError(f"{error.object!r} holds half a character: {mended} gives a text without.") from error
    return path


def _to_frame(data: Table) -> pd.DataFrame:
    """Return a table of any other kind in which each column is of one type."""
    if hasattr(data, "__arrow_c_stream__") and not isinstance(data, pd.DataFrame | pd.Series | pa.ChunkedArray):
        data = pa.table(data)  # of polars, DuckDB or a reader, whose batches pandas would take for texts
    if isinstance(data, pa.Table | pa.Array | pa.ChunkedArray):
        data = data.to_pandas(integer_object_nulls=True)  # as floats, large numbers would be others
    elif isinstance(data, Sequence):  # also a column of datasets
        data = {"text": [*data]} if all(isinstance(row, str | None) for row in data) else [*data]
    frame = pd.DataFrame(data, dtype=None if isinstance(data, pd.DataFrame) else object)
    for name, column in frame.loc[:, frame.dtypes == "object"].items():
        try:
            is_typed = pa.array(column, from_pandas=True).type != pa.null()  # of nulls, and of no rows, nothing says so
        except (pa.ArrowException, OverflowError):  # numbers and words are words, as in a file of Excel
            is_typed = False
        if not is_typed:
            frame[name] = column.map(str, na_action="ignore").astype("string")
    return frame


def train(data: Table, output_dir: str, model: str = "mini", labels: Sequence[str] | None = None, **options) -> dict:
    """Fine-tune a model on a table, off which valid is split, and save it.

    Args:
        data: texts and labels.
        output_dir: folder for the model.
        model: what to start from, as in `load_model`.
        labels: names of the labels, a list or comma-separated; None for those of the model, else SmSA's.
        options: of `ReadingArguments` and of `SentimentTrainingArguments`; without `learning_rate`, it is one that
            the model needs.

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
    """Return a table with the columns that `predict_files` adds; one of pandas keeps its index, names and types.

    Where `on_bad_row="skip"` leaves rows of a file out, the index has the number that each of the others has there.

    Args:
        data: texts, and what else there is.
        model: a loaded one, or the folder or name of one; None for e5-sentiment.
        options: of `predict_files`, but for `format`.
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


def evaluate(data: Table, model: str | SentimentClassifier = CLASSIFIER, **options: object) -> dict:
    """Return what report.json says of a model on a table.

    Args:
        data: texts and labels.
        model: a loaded one, the folder or name of one, or the folder of a baseline.
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
