"""Files of any size <-> windows of rows: CSV, TSV, JSONL, Parquet and plain lines, also gzip and zstd.

Every value comes back as it was. Text formats carry no types, so all their columns are strings here; a line of JSONL
that goes to JSONL again is not taken apart at all.
"""

import base64
import csv
import io
import json
import math
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from smsa.labels import LABELS
from smsa.rows import (
    NOT_UTF8,
    BadRow,
    Malformed,
    is_unicode,
    read_csv,
    read_jsonl,
    read_lines,
    read_tsv,
    refuse_other_separator,
)

logger = logging.getLogger(__name__)

INPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
OUTPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "submission")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# Names that a column of texts is known by; English and Indonesian, lower case.
TEXT_NAMES = (
    *("text", "texts", "sentence", "content", "body", "review", "comment", "tweet", "message", "full_text"),
    *("teks", "kalimat", "isi", "ulasan", "komentar", "pesan", "review_text", "tweet_text"),
)
SMSA_COLUMNS = ("text", "gold")  # of a .tsv without header

_ROWS_LOOKED_AT = 1000  # of JSONL, for one that shows which key holds the texts

# What a spreadsheet may run when a cell starts with it (OWASP, "CSV Injection"), apostrophes before it included.
_FORMULA = r"^('*[=+\-@\t\r\n＝＋－＠])"
_NUMBER = r"^[+-]?[0-9]+([.,][0-9]+)*([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Window:
    """Consecutive rows of one file; the bad ones stand apart."""

    n_read: int  # rows, bad ones included
    numbers: np.ndarray  # (n_good,): number of each good row in its file, from 0
    texts: pa.Array  # (n_good,) of strings; null where there is none
    table: pa.Table  # (n_good, n_columns): the original columns, or whole lines of JSONL
    bad_rows: list[tuple[int, BadRow]]  # with the number of the row in its file


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
        raise ValueError(
            f"{path}: the suffix must be one of {known}, the text formats also with .gz or .zst behind it; "
            "or name the format with --input_format or --format. Tables of other kinds become CSV by pandas: "
            "pd.read_excel(OLD).to_csv(NEW, index=False)."
        )
    if found == "parquet" and compression:
        raise ValueError(f"{path}: Parquet is compressed inside; leave {suffixes[-1]} away.")
    return Layout(found, compression)


class ManyColumns(ValueError):
    """A file has several columns that could hold the texts, or none by a name that is known.

    Attributes:
        candidates: their names.
    """

    def __init__(self, message: str, candidates: list[str]):
        super().__init__(message)
        self.candidates = candidates


class Source:
    """One input file: its columns, which of them holds the texts, and its rows, window by window.

    Args:
        path: the file.
        layout: how it is written.
        output_format: what the rows are for; a line of JSONL stays whole if it is `jsonl`.
        text_column: name of the column of texts; None to choose the only sensible one.
        reserved: names of columns that will be added.

    Attributes:
        schema: the original columns as they will be written; lines of JSONL that stay whole are the one column `line`.
        text_column: the column that was named or chosen; None for a file without anything in it.
        candidates: the columns that could hold texts.
        stays_whole: whether a row is a line of JSONL that is not taken apart.

    Raises:
        ManyColumns: if there are several to choose from.
        ValueError: if there is no such column; if a column is `reserved`; if the file is not what its suffix says.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        output_format: str,
        text_column: str | None = None,
        reserved: frozenset[str] = frozenset(),
    ):
        self.path, self.layout, self._output_format, self._reserved = path, layout, output_format, reserved
        self.stays_whole = layout.format == "jsonl" and output_format == "jsonl"
        self._has_header = layout.format == "csv"
        names, self.candidates = self._read_names(text_column)
        if len(set(names)) < len(names) and output_format in ("jsonl", "parquet"):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{path}: two columns are named {twice!r}, which {output_format} cannot hold; write .csv.")
        self.text_column = _choose_column(path, names, text_column, self.candidates) if names else None
        if layout.format == "csv" and text_column is None and len(names) == 1 and not _is_wanted(names[0]):
            logger.warning(
                "%s: the first line, %r, is taken for the name of the column. If it is a text, the file has no header: "
                "let its name end in .txt.", path, names[0],
            )  # fmt: skip
        if not self.stays_whole:
            self._refuse_reserved(names, path)
        if layout.format == "parquet":
            with self._reading() as stream:
                self.schema = _to_plain(pq.ParquetFile(stream).schema_arrow.empty_table(), output_format).schema
        else:
            columns = ["line"] if self.stays_whole else names
            self.schema = pa.schema([(name, pa.string()) for name in columns])

    def _read_names(self, text_column: str | None) -> tuple[list[str], list[str]]:
        """Get the names of the columns, and of those that could hold texts."""
        with self._reading() as stream:
            if self.layout.format == "parquet":
                schema = pq.ParquetFile(stream).schema_arrow
                return schema.names, [field.name for field in schema if _is_text(field.type)]
            if self.layout.format == "txt":
                return ["text"], ["text"]
            if self.layout.format == "jsonl":
                head = (row for _, _, row in islice(read_jsonl(stream), _ROWS_LOOKED_AT))
                rows = [row for row in head if isinstance(row, dict) and row]
                typical = (row for row in rows for key in row if _is_wanted(key, text_column) and _is_string(row[key]))
                first = next(typical, rows[0] if rows else {})
                return list(first), [key for key, value in first.items() if value is None or _is_string(value)]
            rows = read_csv(stream, self.path) if self.layout.format == "csv" else read_tsv(stream)
            _, names = next(rows, (1, []))
        if not all(map(is_unicode, names)):
            raise ValueError(f"{self.path}:1: the names of the columns are not valid UTF-8. {NOT_UTF8}")
        if self.layout.format == "tsv" and names:
            self._has_header = any(_is_wanted(name, text_column) for name in names)
            logger.info("%s: the first line is %s header", self.path, "a" if self._has_header else "a row, there is no")
            is_smsa = len(names) == 1 or (len(names) == 2 and (names[1] in LABELS or text_column == SMSA_COLUMNS[0]))
            if not self._has_header and not is_smsa:
                raise ValueError(
                    f"{self.path}:1: none of {', '.join(map(repr, names))} is a known name for a text column. If this "
                    "is a header, name the column with --text_column. A .tsv without header is a text a line, or text "
                    "and label as SmSA's; for other labels than SmSA's say so by --text_column text."
                )
            names = names if self._has_header else list(SMSA_COLUMNS[: len(names)])
        return names, names

    def _refuse_reserved(self, names: list[str], place: object) -> None:
        if taken := [name for name in names if name in self._reserved]:
            raise ValueError(
                f"{place}: there is a column {', '.join(taken)} already, which scoring would add. Let the added "
                "names begin with something, for example --prefix smsa_, or rename yours."
            )

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """Open the file, decompressed; what goes wrong with it names it."""
        try:
            if self.layout.compression:
                with pa.input_stream(str(self.path), compression=self.layout.compression) as stream:
                    yield io.BufferedReader(stream, 1 << 20)
            else:
                with self.path.open("rb", buffering=1 << 20) as stream:
                    yield stream
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from error

    def windows(self, n_rows: int) -> Iterator[Window]:
        """Yield all rows in order, `n_rows` at a time; the last window may be shorter."""
        start = 0
        with self._reading() as stream:
            if self.layout.format == "parquet":
                for table in _rechunk(pq.ParquetFile(stream, pre_buffer=False).iter_batches(n_rows), n_rows):
                    yield self._make_window(start, table.num_rows, {}, table, table[self.text_column])
                    start += table.num_rows
                return
            rows = self._rows(stream)
            while chunk := list(islice(rows, n_rows)):
                yield self._from_rows(start, chunk)
                start += len(chunk)

    def _rows(self, stream: BinaryIO) -> Iterator[tuple[int, list | Malformed]]:
        """Yield (line, values); of JSONL that stays whole, the values are the line and the text."""
        if self.layout.format == "jsonl":
            yield from self._json_rows(stream)
        elif self.layout.format == "txt":
            yield from ((number, [line]) for number, line in read_lines(stream))
        else:
            width = len(self.schema) or None
            rows = read_csv(stream, self.path) if self.layout.format == "csv" else read_tsv(stream, width)
            yield from islice(rows, 1 if self._has_header else 0, None)

    def _json_rows(self, stream: BinaryIO) -> Iterator[tuple[int, list | Malformed]]:
        names = self.schema.names
        for number, line, row in read_jsonl(stream, parse_float=float if self.stays_whole else _Digits):
            if isinstance(row, dict):
                text = row.get(self.text_column, self)  # `self` stands for none at all
                if not isinstance(text, str | None):
                    reason = f"no {self.text_column!r}" if text is self else "the text is not a string"
                    row = Malformed(row, reason)
                elif self.stays_whole:
                    self._refuse_reserved(list(row), f"{self.path}:{number}")
                    row = [line, text]
                elif row.keys() == set(names):
                    row = [_to_text(row[name]) for name in names]
                else:
                    row = Malformed(row, f"the keys are not those of the first row ({', '.join(names)})")
            yield number, row

    def _from_rows(self, start: int, chunk: list[tuple[int, list | Malformed]]) -> Window:
        lines, rows = zip(*chunk, strict=True)
        faults = {i: row for i, row in enumerate(rows) if isinstance(row, Malformed)}
        try:
            columns = _to_columns([row for i, row in enumerate(rows) if i not in faults])
        except UnicodeEncodeError:  # rare, so that only then each value is looked at
            for i, row in enumerate(rows):
                if i not in faults and not all(is_unicode(value) for value in row if value):
                    faults[i] = Malformed(row, "not valid UTF-8")
            columns = _to_columns([row for i, row in enumerate(rows) if i not in faults])
        columns = columns or [pa.array([], pa.string())] * (len(self.schema) + self.stays_whole)
        table = pa.Table.from_arrays(columns[: len(self.schema)], schema=self.schema)
        if self.text_column is None:
            texts = pa.array([], pa.string())
        else:
            texts = columns[1 if self.stays_whole else self.schema.names.index(self.text_column)]
        return self._make_window(start, len(rows), faults, table, texts, lines)

    def _make_window(
        self, start: int, n_read: int, faults: dict[int, Malformed], table: pa.Table, texts: pa.Array, lines=None
    ) -> Window:
        """Set rows apart that the output cannot hold, and put the window together."""
        numbers = np.delete(np.arange(n_read), list(faults))
        texts = _one_array(texts)
        table = _to_plain(table, self._output_format)
        if self._output_format == "tsv":
            fits = np.ones(len(numbers), dtype=bool)
            for name, column in zip(table.column_names, table.columns, strict=True):
                for i in np.flatnonzero(pc.match_substring_regex(column, "[\t\r\n]").fill_null(False)):
                    reason = f"{name!r} holds a tab or a line break, which TSV cannot; write .csv, .jsonl or .parquet"
                    faults[int(numbers[i])] = Malformed(table.slice(i, 1).to_pylist()[0], reason)
                    fits[i] = False
            numbers, texts, table = numbers[fits], texts.filter(pa.array(fits)), table.filter(pa.array(fits))
        bad_rows = [
            (start + i, BadRow(self.path, lines[i] if lines else start + i + 1, fault.value, fault.reason))
            for i, fault in sorted(faults.items())
        ]
        return Window(n_read, start + numbers, texts, table, bad_rows)


def _choose_column(path: Path, names: list[str], named: str | None, candidates: list[str]) -> str:
    listed = ", ".join(map(repr, names))
    if named is not None:
        if names.count(named) != 1:
            found = f"{names.count(named)} columns" if named in names else "no column"
            raise ValueError(f"{path}: {found} named {named!r}. The columns are: {listed}.")
        if named not in candidates:
            raise ValueError(f"{path}: the column {named!r} does not hold text.")
        return named
    refuse_other_separator(path, names)
    known = [name for name in names if _is_wanted(name)]
    sensible = known or (candidates if len(candidates) == 1 else [])
    if len(sensible) != 1:
        raise ManyColumns(
            f"{path}: which column holds the texts? Name it with --text_column. The columns are: {listed}.", candidates
        )
    if sensible[0] not in candidates:
        raise ValueError(f"{path}: the column {sensible[0]!r} does not hold text. Name another with --text_column.")
    return sensible[0]


def _is_wanted(name: str, text_column: str | None = None) -> bool:
    """Whether the name is that of the column of texts, by what was named, else by what is common."""
    return name == text_column if text_column else name.strip().lower() in TEXT_NAMES


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _to_columns(rows: list[list]) -> list[pa.Array]:
    return [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    column = column.cast(pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _to_text(value: object) -> str | None:
    """A JSON value as text: strings as they are, numbers with their own digits, lists and objects as JSON again."""
    if value is None or isinstance(value, str):
        return value
    return (
        value.digits if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False, default=_Digits.__float__)
    )


@dataclass(frozen=True)
class _Digits:
    """A number of JSON that is not whole, as it was written."""

    digits: str

    def __float__(self) -> float:
        return float(self.digits)


def _to_plain(table: pa.Table, output_format: str) -> pa.Table:
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


def _rechunk(batches: Iterator[pa.RecordBatch], n_rows: int) -> Iterator[pa.Table]:
    """Yield tables of `n_rows` rows; batches end where a row group does."""
    held, n_held = [], 0
    for batch in batches:
        held, n_held = [*held, batch], n_held + batch.num_rows
        if n_held >= n_rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, n_rows)
            held, n_held = table.slice(n_rows).to_batches(), n_held - n_rows
    if n_held:
        yield pa.Table.from_batches(held)


def join_columns(table: pa.Table, added: pa.Table) -> pa.Table:
    """Put the added columns behind the original ones."""
    fields = [*table.schema, *added.schema]
    return pa.Table.from_arrays([*table.columns, *added.columns], schema=pa.schema(fields, table.schema.metadata))


def render_header(output_format: str, names: list[str]) -> bytes:
    """Get what stands before the first row of a text format."""
    if output_format == "jsonl":
        return b""
    if output_format == "submission":
        return b"index,label\n"
    cells = escape_formulas(pa.array(names, pa.string()))
    if output_format == "tsv":
        if pc.any(pc.match_substring_regex(cells, "[\t\r\n]")).as_py():
            raise ValueError("the name of a column holds a tab or a line break, which TSV cannot; write .csv.")
        return "\t".join(cells.to_pylist()).encode() + b"\n"
    return _write_csv(pa.Table.from_arrays([pa.array([], pa.string())] * len(cells), names=cells.to_pylist()), True)


def render_rows(output_format: str, table: pa.Table, added: pa.Table, stays_whole: bool = False) -> bytes:
    """Get the rows of one window in a text format.

    Args:
        output_format: `csv`, `tsv`, `jsonl` or `submission`.
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
    if output_format == "jsonl":
        rows = table.to_pylist()
        for name in [field.name for field in table.schema if pa.types.is_nested(field.type)]:
            for row in rows:
                row[name] = _to_json_value(row[name])
        return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()
    columns = [escape_formulas(column) if _is_text(column.type) else column for column in table.columns]
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
    return pc.replace_substring_regex(column, "^'('*[=+\\-@\\t\\r\\n＝＋－＠])", r"\1")


def compress(content: bytes, compression: str | None) -> bytes:
    """Get `content` as a gzip member or zstd frame of its own; one behind the other they make one file."""
    if compression is None:
        return content
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()
