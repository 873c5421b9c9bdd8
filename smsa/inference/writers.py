"""Rows and predictions -> bytes of CSV, TSV, JSONL, Parquet, a workbook or a submission."""

import base64
import datetime
import json
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import xlsxwriter

from smsa.data.reader import Chunk, Source
from smsa.errors import UserError

logger = logging.getLogger(__name__)

OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "xlsx", "parquet", "submission")
WORKBOOK_ROWS = 2**20 - 1  # below the header
LABEL_COLUMNS = ("label", "words")  # the added columns that --labels_only keeps
_GROUP_BYTES = 2**24  # size of a Parquet row group in memory
_PLAIN = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)  # any format keeps them
_TAKEN_PREFIX = "smsa_"  # for the added columns, if an input has one of their names already

# How cells begin that a spreadsheet may run (OWASP, "CSV Injection"), with any apostrophes before.
_FORMULA = r"^('*[=+\-@\t\r\n＝＋－＠])"
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"


def to_plain(table: pa.Table, output_format: str) -> pa.Table:
    """Convert columns that a text format cannot hold to text; docs/prediction.md says how."""
    if output_format in ("parquet", "submission"):
        return table
    columns = [_to_plain_column(column, output_format) for column in table.columns]
    return pa.Table.from_arrays(columns, names=table.column_names)


def fit_chunks(sources: Iterable[Source], output_format: str, n_rows: int) -> Iterator[tuple[Source, Chunk]]:
    """Yield all rows, numbered over all files, in types that the output can hold; refuse texts that it cannot."""
    first = 0
    for source in sources:
        for chunk in source.chunks(n_rows, first):
            first += chunk.n_read
            if source.is_typed:
                chunk = replace(chunk, table=to_plain(chunk.table, output_format))
            if output_format in ("tsv", "xlsx"):
                _require_fit(chunk, source.path, output_format)
            if output_format == "submission":
                chunk = replace(chunk, table=pa.table({"index": chunk.numbers}))
            yield source, chunk


def _require_fit(chunk: Chunk, path: Path, output_format: str) -> None:
    """Refuse a text that TSV or a workbook cannot hold."""
    for name, column in zip(chunk.table.column_names, chunk.table.columns, strict=True):
        if not pa.types.is_string(column.type):
            continue
        if output_format == "tsv":
            what, is_unfit = "a tab or a line break", pc.match_substring_regex(column, "[\t\r\n]")
        else:
            what, is_unfit = "more than 32,767 characters", pc.greater(pc.utf8_length(column), 32767)
        if (i := pc.index(is_unfit, True).as_py()) >= 0:
            raise UserError(f"{path}:{chunk.lines[i]}: {name!r} holds {what}; write .csv, .jsonl or .parquet.")


def _to_plain_column(column: pa.ChunkedArray, output_format: str) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_floating(kind) and output_format == "xlsx":
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))  # a cell cannot hold NaN
    is_plain = any(is_kind(kind) for is_kind in _PLAIN)
    is_date = pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)
    if is_plain or {"jsonl": pa.types.is_nested(kind), "xlsx": is_date}.get(output_format):
        return column
    if not pa.types.is_nested(kind) and "binary" not in str(kind):  # also large or fixed-size, or in a dictionary
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return column.cast(pa.string())
    values = map(_to_json_value, column.to_pylist())
    return pa.array([value if isinstance(value, str | None) else _to_json(value) for value in values], pa.string())


def _to_json(value: object) -> str:
    return json.dumps(_to_json_value(value), ensure_ascii=False, allow_nan=False)


def _to_json_value(value: object) -> object:
    """Return a value that JSON can hold: null for NaN, base64 for bytes, text for dates and other types."""
    if isinstance(value, dict):
        return {str(name): _to_json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int)) else str(value)


def find_prefix(added: Iterable[str], columns: Iterable[str], prefix: str = "", where: str = "") -> str:
    """Return a prefix for the added columns, so that none has the name of another column, ignoring case."""
    added, taken = list(added), {str(name).lower() for name in columns}
    while there := [name for name in (f"{prefix}{name}" for name in added) if name.lower() in taken]:
        prefix = f"{_TAKEN_PREFIX}{prefix}"
        what = f"{where}the input has a column {', '.join(there)} already"
        logger.info("%s, so the added names begin with %s", what, prefix)
    return prefix


def write_tables(
    stream: BinaryIO,
    output_format: str,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    keep_lines: bool = False,
    escapes: bool = False,
) -> None:
    """Write tables of one schema one after the other, as a file in one of `OUTPUT_FORMATS`.

    Args:
        keep_lines: whether the first column holds lines of JSONL, to which the other columns are added.
        escapes: whether to escape names and texts in CSV and TSV, see `escape_formulas`.

    Raises:
        UserError: for column names that the format cannot hold.
    """
    names = schema.names
    if output_format in ("jsonl", "parquet", "xlsx") and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"two columns are named {twice!r}, which {output_format} cannot hold; write .csv.")
    if output_format == "tsv" and any(set(name) & set("\t\r\n") for name in names):
        raise UserError("the name of a column holds a tab or a line break, which TSV cannot hold; write .csv.")
    if escapes and output_format in ("csv", "tsv"):
        schema, tables = _escape_table(schema.empty_table()).schema, map(_escape_table, tables)
    if output_format == "xlsx":
        _write_workbook(stream, schema, tables)
    elif output_format == "parquet":
        with pq.ParquetWriter(stream, schema) as writer:
            for table in _gather(tables):
                writer.write_table(table)
    elif output_format == "csv":
        with pyarrow.csv.CSVWriter(stream, schema) as writer:  # quotes every text, so that a bare CR cannot split a row
            for table in tables:
                writer.write_table(table)
    else:
        if output_format != "jsonl":
            stream.write(("\t" if output_format == "tsv" else ",").join(schema.names).encode() + b"\n")
        for table in tables:
            if output_format == "submission":
                text = table.to_pandas().to_csv(header=False, index=False, lineterminator="\n")
            elif output_format == "tsv":
                cells = [column.cast(pa.string()) for column in table.columns]
                lines = pc.binary_join_element_wise(*cells, "\t", null_handling="replace", null_replacement="")
                text = "".join(f"{line}\n" for line in lines.to_pylist())
            else:
                rows = map(_to_json, table.select(range(keep_lines, table.num_columns)).to_pylist())
                if keep_lines:
                    heads = (line.rstrip()[:-1].rstrip() for line in table[0].to_pylist())
                    rows = (f"{head}, {added[1:]}" for head, added in zip(heads, rows, strict=True))
                text = "".join(f"{row}\n" for row in rows)
            stream.write(text.encode())


def _gather(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Merge small tables into larger ones: each becomes a row group, and many row groups are slow to read."""
    gathered, n_bytes = [], 0
    for table in tables:
        gathered.append(table)
        n_bytes += table.nbytes
        if n_bytes >= _GROUP_BYTES:
            yield pa.concat_tables(gathered)
            gathered, n_bytes = [], 0
    if gathered:
        yield pa.concat_tables(gathered)


def _write_workbook(stream: BinaryIO, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write a workbook of one sheet; a text stays a text, and becomes no formula, number or link."""
    options = {f"strings_to_{kind}": False for kind in ("formulas", "numbers", "urls")}
    options |= {"constant_memory": True, "default_date_format": "yyyy-mm-dd hh:mm:ss"}
    with xlsxwriter.Workbook(stream, options) as book:
        sheet = book.add_worksheet()
        rows = (row.values() for table in tables for row in table.to_pylist())
        for i, row in enumerate(chain([schema.names], rows)):
            for j, value in enumerate(row):
                is_date, is_number = isinstance(value, datetime.date), isinstance(value, int | float)
                if (is_date and value.year >= 1900) or (is_number and abs(value) < 2**53):  # what a cell can hold
                    sheet.write(i, j, value)
                elif value is not None and value != "":
                    sheet.write_string(i, j, str(value))


def escape_formulas(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Put an apostrophe before cells that a spreadsheet would run.

    Such cells begin with = + - @, their full-width forms, TAB, CR or LF; numbers such as -5 are excepted. If a cell has
    apostrophes before such a beginning, it gets one more, so that `restore_formulas` is exact.
    """
    escaped = pc.replace_substring_regex(column, _FORMULA, r"'\1")
    return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, escaped)


def _escape_table(table: pa.Table) -> pa.Table:
    """Return a table with `escape_formulas` applied to its names and its texts."""
    columns = [escape_formulas(column) if pa.types.is_string(column.type) else column for column in table.columns]
    return pa.Table.from_arrays(columns, names=escape_formulas(pa.array(table.column_names, pa.string())).to_pylist())


def restore_formulas(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Undo `escape_formulas`: remove one apostrophe from cells that have any before such a beginning."""
    return pc.replace_substring_regex(column, "^'" + _FORMULA.removeprefix("^"), r"\1")
