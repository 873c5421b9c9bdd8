"""Files of any size -> windows of rows: CSV, TSV, JSONL, Parquet and plain lines, also gzip and zstd.

Every value goes on as it was. Text formats carry no types, so all their columns are strings here; a line of JSONL that
goes to JSONL again is not taken apart at all.
"""

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smsa.data.labels import LABELS
from smsa.data.rows import (
    NOT_UTF8,
    BadRow,
    Malformed,
    is_unicode,
    read_csv,
    read_jsonl,
    read_lines,
    read_tsv,
    refuse_other_separator,
    refuse_utf16,
)
from smsa.errors import UserError
from smsa.inference.writers import Layout, is_text, to_plain

logger = logging.getLogger(__name__)

# Names that a column of texts is known by; English and Indonesian, lower case.
TEXT_NAMES = (
    *("text", "texts", "sentence", "content", "body", "review", "comment", "tweet", "message", "full_text"),
    *("teks", "kalimat", "isi", "ulasan", "komentar", "pesan", "review_text", "tweet_text"),
)
SMSA_COLUMNS = ("text", "gold")  # of a .tsv without header

_ROWS_LOOKED_AT = 1000  # of JSONL, for one that shows which key holds the texts


@dataclass(frozen=True)
class Window:
    """Consecutive rows of one file; the bad ones stand apart."""

    n_read: int  # rows, bad ones included
    numbers: np.ndarray  # (n_good,): number of each good row in its file, from 0
    texts: pa.Array  # (n_good,) of strings; null where there is none
    table: pa.Table  # (n_good, n_columns): the original columns, or whole lines of JSONL
    bad_rows: list[tuple[int, BadRow]]  # with the number of the row in its file


class ManyColumns(UserError):
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
            raise UserError(f"{path}: two columns are named {twice!r}, which {output_format} cannot hold; write .csv.")
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
                self.schema = to_plain(pq.ParquetFile(stream).schema_arrow.empty_table(), output_format).schema
        else:
            columns = ["line"] if self.stays_whole else names
            self.schema = pa.schema([(name, pa.string()) for name in columns])

    def _read_names(self, text_column: str | None) -> tuple[list[str], list[str]]:
        """Get the names of the columns, and of those that could hold texts."""
        with self._reading() as stream:
            if self.layout.format == "parquet":
                schema = pq.ParquetFile(stream).schema_arrow
                return schema.names, [field.name for field in schema if is_text(field.type)]
            if self.layout.format == "txt":
                return ["text"], ["text"]
            if self.layout.format == "jsonl":
                head = (row for _, _, row in islice(read_jsonl(stream), _ROWS_LOOKED_AT))
                rows = [row for row in head if isinstance(row, dict) and row]
                typical = (row for row in rows for key in row if _is_wanted(key, text_column) and _is_string(row[key]))
                first = next(typical, rows[0] if rows else {})
                return list(first), [key for key, value in first.items() if value is None or _is_string(value)]
            rows = read_csv(stream, self.path) if self.layout.format == "csv" else read_tsv(stream, self.path)
            _, names = next(rows, (1, []))
        if self.layout.format == "csv" and text_column is None:
            refuse_other_separator(self.path, names)
        if not all(map(is_unicode, names)):
            raise UserError(f"{self.path}:1: the names of the columns are not valid UTF-8. {NOT_UTF8}")
        if self.layout.format == "tsv" and names:
            self._has_header = any(_is_wanted(name, text_column) for name in names)
            logger.info("%s: the first line is %s header", self.path, "a" if self._has_header else "a row, there is no")
            is_smsa = len(names) == 1 or (len(names) == 2 and (names[1] in LABELS or text_column == SMSA_COLUMNS[0]))
            if not self._has_header and not is_smsa:
                raise UserError(
                    f"{self.path}:1: none of {', '.join(map(repr, names))} is a known name for a text column. If this "
                    "is a header, name the column with --text_column. A .tsv without header is a text a line, or text "
                    "and label as in SmSA; where its labels are not SmSA's, give --text_column text."
                )
            names = names if self._has_header else list(SMSA_COLUMNS[: len(names)])
        return names, names

    def _refuse_reserved(self, names: list[str], place: object) -> None:
        if taken := [name for name in names if name in self._reserved]:
            raise UserError(
                f"{place}: there is a column {', '.join(taken)} already, which scoring would add. Let the added "
                "names begin with something, for example --prefix smsa_, or rename yours."
            )

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        """Open the file, decompressed; what goes wrong with it names it."""
        try:
            if self.layout.compression:
                with pa.input_stream(str(self.path), compression=self.layout.compression) as stream:
                    reader = io.BufferedReader(stream, 1 << 20)
                    refuse_utf16(reader, self.path)
                    yield reader
            else:
                with self.path.open("rb", buffering=1 << 20) as stream:
                    refuse_utf16(stream, self.path)
                    yield stream
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error

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
            rows = read_csv(stream, self.path) if self.layout.format == "csv" else read_tsv(stream, self.path, width)
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
        table = to_plain(table, self._output_format)
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
            raise UserError(f"{path}: {found} named {named!r}. The columns are: {listed}.")
        if named not in candidates:
            raise UserError(f"{path}: the column {named!r} does not hold text.")
        return named
    known = [name for name in names if _is_wanted(name)]
    sensible = known or (candidates if len(candidates) == 1 else [])
    if len(sensible) != 1:
        raise ManyColumns(
            f"{path}: which column holds the texts? Name it with --text_column. The columns are: {listed}. If these "
            "are no names, the file lacks the line with them: put it above.",
            candidates,
        )
    if sensible[0] not in candidates:
        raise UserError(f"{path}: the column {sensible[0]!r} does not hold text. Name another with --text_column.")
    return sensible[0]


def _is_wanted(name: str, text_column: str | None = None) -> bool:
    """Whether the name is that of the column of texts, by what was named, else by what is common."""
    return name == text_column if text_column else name.strip().lower() in TEXT_NAMES


def _is_string(value: object) -> bool:
    return isinstance(value, str)


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
