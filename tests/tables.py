"""What the tests of prediction share: hostile texts, files that other libraries wrote, and a fast classifier."""

import csv
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import reading
from smsa import SentimentClassifier

HOSTILE = [
    "enak dan murah sekali !", "kotor " * 300, "emoji 🙂👨‍👩‍👧", "مرحبا بالعالم",
    "", "   ", "NA", "null", "\\N", "1e400",  # what other readers take for nothing, or for a number
    "-5", "=1+1", "'=1+1", "+62 812", "@user",  # or run as a formula
    'kata "enak", katanya', '"', "dua\nbaris", "cr\rdi dalam", "crlf\r\ndi dalam", "tab\tdi dalam",
    "nul\0di dalam", "\ufeffbom", "\u2028pemisah\x85",
]  # fmt: skip
ADDED = ["label", "score", "p_positive", "p_neutral", "p_negative", "truncated", "empty"]


def make_classifier(model, tokenizer, chunk_rows: int = 8, **options) -> SentimentClassifier:
    """Return a classifier on torch in fp32, with chunks of a few rows."""
    options = {"backend": "torch", "precision": "no", "num_threads": 1} | options
    classifier = SentimentClassifier(model, tokenizer, **options)
    classifier.engine.chunk_rows = chunk_rows
    return classifier


def write_file(path, rows: list[dict]) -> None:
    """Write rows of strings or None with libraries that are not the one under test."""
    name, keys = path.name.removesuffix(".gz").removesuffix(".zst"), list(rows[0])
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(key, pa.string()) for key in keys])), path)
        return
    if name.endswith(".csv"):
        text = pd.DataFrame(rows).to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    elif name.endswith(".tsv"):
        text = "".join("\t".join(fields) + "\n" for fields in [keys, *([row[key] for key in keys] for row in rows)])
    elif name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif name.endswith(".json"):
        text = json.dumps(rows, ensure_ascii=False, indent=2)
    else:
        text = "".join(row["text"] + "\n" for row in rows)
    with pa.output_stream(str(path)) as stream:  # compressed as the suffix says
        stream.write(text.encode())


def write_workbook(path, sheets: dict[str, list[list]]) -> None:
    """Write cells into the sheets of an .xlsx, with a library that is not the one under test."""
    path.write_bytes(reading.write_workbook(sheets))


def read_file(path) -> list[dict]:
    """Read a labelled file with libraries that are not the one under test; cells of CSV and TSV are strings."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    text = pa.input_stream(str(path)).read().decode()
    if name.endswith(".csv"):
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    elif name.endswith((".jsonl", ".json")):
        return [json.loads(line) for line in text.split("\n")[:-1]]
    else:
        header, *rows = (line.split("\t") for line in text.split("\n")[:-1])
    return [dict(zip(header, row, strict=True)) for row in rows]
