"""Rows and predictions -> bytes of CSV, TSV, JSONL, Parquet or a submission."""

import base64
import csv
import io
import json
import math
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from smsa.errors import UserError

OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "submission")

# What a spreadsheet may run when a cell starts with it (OWASP, "CSV Injection"), apostrophes before it included.
_FORMULA = r"^('*[=+\-@\t\r\n＝＋－＠])"
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"


def to_plain(table: pa.Table, output_format: str) -> pa.Table:
    """Turn what a text format cannot hold into text, column by column; docs/prediction.md says how."""
    if output_format in ("parquet", "submission"):
        return table
    for i, field in enumerate(table.schema):
        column = _to_plain_column(table[i], field.type, output_format)
        table = table.set_column(i, pa.field(field.name, column.type), column)
    return table


def find_unfit(table: pa.Table) -> dict[int, str]:
    """Return the rows, by position, that a TSV file cannot hold, each with the name of the column that is at fault."""
    unfit: dict[int, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        for i in np.flatnonzero(pc.match_substring_regex(column, "[\t\r\n]").fill_null(False)):
            unfit.setdefault(int(i), name)
    return unfit


def _to_plain_column(column: pa.ChunkedArray, kind: pa.DataType, output_format: str) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column if output_format != "tsv" else column.cast(pa.string())
    if pa.types.is_nested(kind) and output_format == "jsonl":
        return column
    is_binary = any(of(kind) for of in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))
    if not is_binary and not pa.types.is_nested(kind):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return column.cast(pa.string())
    values = map(_to_json_value, column.to_pylist())
    texts = [value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(texts, pa.string())


def _to_json_value(value: object) -> object:
    """Return what JSON holds of a row, list or struct: null for NaN, bytes as base64, dates and the like as text."""
    if isinstance(value, dict):
        return {str(name): _to_json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int)) else str(value)


def render_header(output_format: str, names: list[str]) -> bytes:
    """Return what stands before the first row.

    Raises:
        UserError: for names that the format cannot hold.
    """
    if output_format == "submission":
        return b"index,label\n"
    if output_format in ("jsonl", "parquet"):
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"two columns are named {twice!r}, which {output_format} cannot hold; write .csv.")
        return b""
    if output_format == "tsv" and any(set(name) & set("\t\r\n") for name in names):
        raise UserError("the name of a column holds a tab or a line break, which TSV cannot; write .csv.")
    row = pa.table([pa.array([name]) for name in names], [*map(str, range(len(names)))])
    return render_rows(output_format, row, pa.table({}))


def render_rows(output_format: str, table: pa.Table, added: pa.Table, keep_lines: bool = False) -> bytes:
    """Return the rows of one chunk; those of Parquet are a file of their own.

    Args:
        output_format: one of `OUTPUT_FORMATS`.
        table: the original columns; for `submission` the number of each row.
        added: what prediction adds.
        keep_lines: `table` is lines of JSONL.
    """
    if output_format == "submission":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(zip(table[0].to_pylist(), added[0].to_pylist(), strict=True))
        return lines.getvalue().encode()
    if keep_lines:
        extra = (json.dumps(row, ensure_ascii=False)[1:] for row in added.to_pylist())
        heads = (line.rstrip()[:-1].rstrip() for line in table[0].to_pylist())
        return "".join(f"{head}, {row}\n" for head, row in zip(heads, extra, strict=True)).encode()
    for name, column in zip(added.column_names, added.columns, strict=True):
        table = table.append_column(name, column)
    if output_format == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()
    if output_format == "jsonl":
        rows = map(_to_json_value, table.to_pylist())
        return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()
    columns = [escape_formulas(column) if pa.types.is_string(column.type) else column for column in table.columns]
    if output_format == "csv":  # every string is quoted, so that a bare CR cannot split a row; a null is an empty cell
        sink = pa.BufferOutputStream()
        table = pa.Table.from_arrays(columns, names=table.column_names)
        pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(include_header=False))
        return sink.getvalue().to_pybytes()
    cells = [column.cast(pa.string()) for column in columns]
    lines = pc.binary_join_element_wise(*cells, "\t", null_handling="replace", null_replacement="")
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()


def escape_formulas(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Put an apostrophe before cells that a spreadsheet would run.

    These are cells that begin with = + - @, their full-width forms, TAB, CR or LF, numbers like -5 excepted, and those
    that begin with apostrophes before one of these. So `restore_formulas` is exact.
    """
    escaped = pc.replace_substring_regex(column, _FORMULA, r"'\1")
    return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, escaped)


def restore_formulas(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Undo `escape_formulas`: take one apostrophe away where it stands before such a beginning."""
    return pc.replace_substring_regex(column, "^'" + _FORMULA.removeprefix("^"), r"\1")
