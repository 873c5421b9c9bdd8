"""Rows and their labels -> bytes of CSV, TSV, JSONL, Parquet or a submission, also gzip and zstd."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from smsa.errors import UserError

INPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "submission")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# What a spreadsheet may run when a cell starts with it (OWASP, "CSV Injection"), apostrophes before it included.
_FORMULA = r"^('*[=+\-@\t\r\n＝＋－＠])"
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Layout:
    """How a file is written: one of `INPUT_FORMATS` or `OUTPUT_FORMATS`, and gzip, zstd or None around it."""

    format: str
    compression: str | None = None


def find_layout(path: Path, formats: tuple[str, ...], named: str | None = None) -> Layout:
    """Tell the layout of a file from its suffixes, or from the format that was `named`.

    Raises:
        ValueError: if the suffix is none of `formats`, or compression is asked for inside a format that has its own.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    suffix = (suffixes[:-1] if compression else suffixes)[-1:]
    found = named or (suffix[0][1:] if suffix else None)
    if found not in formats:
        known = ", ".join(f".{name}" for name in formats if name != "submission")
        way_out = "--format"
        if formats is INPUT_FORMATS:
            way_out = "--input_format. Excel files become CSV by pandas: pd.read_excel(OLD).to_csv(NEW, index=False)"
        raise UserError(
            f"{path}: the suffix must be one of {known}, the text formats also with .gz or .zst behind it; or name the "
            f"format with {way_out}."
        )
    if found == "parquet" and compression:
        raise UserError(f"{path}: Parquet is compressed inside; leave {suffixes[-1]} away.")
    return Layout(found, compression)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def to_plain(table: pa.Table, output_format: str) -> pa.Table:
    """Turn what a text format cannot hold into text, column by column; docs/scoring.md says how."""
    if output_format in ("parquet", "submission"):
        return table
    for i, field in enumerate(table.schema):
        column = _to_plain_column(table[i], field.type, output_format)
        table = table.set_column(i, pa.field(field.name, column.type), column)
    return table


def _to_plain_column(column: pa.ChunkedArray, kind: pa.DataType, output_format: str) -> pa.ChunkedArray | pa.Array:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if pa.types.is_floating(kind) and output_format == "jsonl":
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))  # JSON knows no NaN
    if is_number and output_format != "tsv":
        return column
    if pa.types.is_nested(kind):
        if output_format == "jsonl":
            return column
        return _texts_of(column, lambda value: json.dumps(_to_json_value(value), ensure_ascii=False, allow_nan=False))
    if any(of(kind) for of in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)):
        return _texts_of(column, lambda value: base64.b64encode(value).decode())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _texts_of(column, str)


def _to_json_value(value: object) -> object:
    """What JSON holds of a list or struct: null for NaN, bytes as base64, dates and the like as their usual text."""
    if isinstance(value, dict):
        return {str(name): _to_json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _texts_of(column: pa.ChunkedArray, to_text: Callable[[object], str]) -> pa.Array:
    return pa.array([None if value is None else to_text(value) for value in column.to_pylist()], pa.string())


def join_columns(table: pa.Table, added: pa.Table) -> pa.Table:
    """Put the added columns behind the original ones."""
    fields = [*table.schema, *added.schema]
    return pa.Table.from_arrays([*table.columns, *added.columns], schema=pa.schema(fields, table.schema.metadata))


def render_header(output_format: str, names: list[str]) -> bytes:
    """Get what stands before the first row.

    Raises:
        ValueError: for a name that the format cannot hold.
    """
    if output_format in ("jsonl", "parquet"):
        return b""
    if output_format == "submission":
        return b"index,label\n"
    cells = escape_formulas(pa.array(names, pa.string()))
    if output_format == "tsv":
        if pc.any(pc.match_substring_regex(cells, "[\t\r\n]")).as_py():
            raise UserError("the name of a column holds a tab or a line break, which TSV cannot; write .csv.")
        return "\t".join(cells.to_pylist()).encode() + b"\n"
    return _write_csv(pa.Table.from_arrays([pa.array([], pa.string())] * len(cells), names=cells.to_pylist()), True)


def render_rows(output_format: str, table: pa.Table, added: pa.Table, stays_whole: bool = False) -> bytes:
    """Get the rows of one window, not compressed; those of Parquet are a file of their own.

    Args:
        output_format: one of `OUTPUT_FORMATS`.
        table: the original columns; for `submission` the number of each row.
        added: what scoring adds.
        stays_whole: `table` is lines of JSONL.
    """
    if output_format == "submission":
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(zip(table[0].to_pylist(), added[0].to_pylist(), strict=True))
        return lines.getvalue().encode()
    if stays_whole:
        extra = (json.dumps(row, ensure_ascii=False)[1:] for row in added.to_pylist())
        heads = (line.rstrip()[:-1].rstrip() for line in table[0].to_pylist())
        return "".join(f"{head}, {row}\n" for head, row in zip(heads, extra, strict=True)).encode()
    table = join_columns(table, added)
    if output_format == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue().to_pybytes()
    if output_format == "jsonl":
        rows = table.to_pylist()
        for name in [field.name for field in table.schema if pa.types.is_nested(field.type)]:
            for row in rows:
                row[name] = _to_json_value(row[name])
        return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()
    columns = [escape_formulas(column) if is_text(column.type) else column for column in table.columns]
    if output_format == "csv":
        return _write_csv(pa.Table.from_arrays(columns, names=table.column_names), False)
    cells = [column.cast(pa.string()) for column in columns]
    lines = pc.binary_join_element_wise(*cells, "\t", null_handling="replace", null_replacement="")
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()


def _write_csv(table: pa.Table, include_header: bool) -> bytes:
    """Every string is quoted, so that a bare CR cannot split a row; a null is an empty cell without quotes."""
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(include_header=include_header))
    return sink.getvalue().to_pybytes()


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


def compress(content: bytes, compression: str | None) -> bytes:
    """Get `content` as a gzip member or zstd frame of its own; one behind the other they make one file."""
    if compression is None:
        return content
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def write_all(stream: BinaryIO, layout: Layout, schema: pa.Schema, parts: Iterable[bytes]) -> None:
    """Write a whole file from its header and what `render_rows` made of each window, compressed."""
    if layout.format == "parquet":
        with pq.ParquetWriter(stream, schema) as writer:
            for part in parts:
                writer.write_table(pq.read_table(pa.BufferReader(part)))
        return
    stream.write(compress(render_header(layout.format, schema.names), layout.compression))
    stream.writelines(parts)
