"""What the tests of prediction share: hostile texts, files that other libraries wrote, and a fast classifier."""

import csv
import gzip
import io
import json

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

from smsa import SentimentClassifier

HOSTILE = [
    "enak dan murah sekali !",
    "",
    "   ",
    "NA",
    "null",
    "-5",
    "=1+1",
    "'=1+1",
    "+62 812",
    "@user",
    'kata "enak", katanya',
    '"',
    "dua\nbaris",
    "cr\rdi dalam",
    "crlf\r\ndi dalam",
    "tab\tdi dalam",
    "nul\0di dalam",
    "\ufeffbom",
    "\u2028pemisah\x85",
    "emoji 🙂👨‍👩‍👧",
    "مرحبا بالعالم",
    "1e400",
    "\\N",
    "kotor " * 300,
]
ADDED = ["label", "score", "p_positive", "p_neutral", "p_negative", "truncated", "empty"]


def make_classifier(model, tokenizer, chunk_rows: int = 8, **options) -> SentimentClassifier:
    """Return a classifier on torch in fp32, with chunks of a few rows."""
    classifier = SentimentClassifier(
        model, tokenizer, **{"backend": "torch", "precision": "no", "num_threads": 1} | options
    )
    classifier.engine.chunk_rows = chunk_rows
    return classifier


def write_file(path, rows: list[dict]) -> None:
    """Write rows of strings or None by libraries that are not the one under test."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(key, pa.string()) for key in rows[0]])), path)
        return
    text, keys = io.StringIO(newline=""), list(rows[0])
    table = [keys, *([row[key] for key in keys] for row in rows)]
    if name.endswith(".csv"):
        csv.writer(text, quoting=csv.QUOTE_ALL).writerows(table)
    elif name.endswith(".tsv"):
        text.write("".join("\t".join(fields) + "\n" for fields in table))
    elif name.endswith(".jsonl"):
        text.write("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith(".txt"):
        text.write("".join(row["text"] + "\n" for row in rows))
    content = text.getvalue().encode()
    if path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_workbook(path, sheets: dict[str, list[list]]) -> None:
    """Write cells into the sheets of an .xlsx, by a library that is not the one under test."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for i, row in enumerate(rows, start=1):
            for j, value in enumerate(row, start=1):
                cell = sheet.cell(i, j, value)
                if isinstance(value, str):
                    cell.data_type = "s"  # and no formula
    book.save(path)


def read_file(path) -> list[dict]:
    """Read a labelled file with libraries that are not the one under test; cells of CSV and TSV are strings."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".parquet"):
        return pq.read_table(path).to_pylist()
    if path.suffix == ".zst":
        content = pa.input_stream(path, compression="zstd").read()
    else:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = content.decode()
    if name.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    if name.endswith((".jsonl", ".json")):
        return [json.loads(line) for line in text.split("\n")[:-1]]
    lines = [line.split("\t") for line in text.split("\n")[:-1]]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
