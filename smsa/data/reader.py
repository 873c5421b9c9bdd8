"""Files of any size -> their columns, and chunks of rows: the one reader of training, evaluation, prediction and page.

Every value goes on as it was. Text formats carry no types, so all their columns are strings here; a line of JSONL may
stay whole. The bytes of each format are taken apart in `smsa.data.formats`.
"""

import codecs
import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smsa.data.formats import NOT_UTF8, BadRow, is_unicode, read_csv, read_jsonl, read_lines, read_tsv
from smsa.data.labels import LABELS
from smsa.errors import UserError

logger = logging.getLogger(__name__)

INPUT_FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
INPUT_SUFFIXES = (
    ".parquet",
    *(f".{name}{packed}" for name in ("csv", "tsv", "jsonl", "txt") for packed in ("", *COMPRESSIONS)),
)
# Names that a column of texts is known by; English and Indonesian, lower case.
TEXT_NAMES = (
    *("text", "texts", "sentence", "content", "body", "review", "comment", "tweet", "message", "full_text"),
    *("teks", "kalimat", "isi", "ulasan", "komentar", "pesan", "review_text", "tweet_text"),
)
SMSA_COLUMNS = ("text", "gold")  # of a .tsv without header

_ROWS_LOOKED_AT = 1000  # of JSONL, for one that shows which key holds the texts


def find_layout(
    path: Path, formats: tuple[str, ...] = INPUT_FORMATS, named: str | None = None
) -> tuple[str, str | None]:
    """Return the format of a file and what it is compressed with, or None.

    Args:
        path: the file, whose suffixes tell, in any case.
        formats: those that are accepted.
        named: a format that was named, and wins over the suffix.

    Raises:
        UserError: if the format is none of `formats`, or Parquet is compressed once more.
    """
    *_, before, last = ("", "", *(suffix.lower() for suffix in path.suffixes))
    compression = COMPRESSIONS.get(last)
    found = named or (before if compression else last)[1:]
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
        raise UserError(f"{path}: Parquet is compressed inside; remove {last}.")
    return found, compression


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


class ManyColumns(UserError):
    """A file has several columns that could hold the texts, or none by a name that is known.

    Attributes:
        candidates: their names.
    """

    def __init__(self, message: str, candidates: list[str]):
        super().__init__(message)
        self.candidates = candidates


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one file; the bad ones stand apart."""

    first: int  # number of its first row; rows are counted from what `Source.chunks` was given
    n_read: int  # rows, bad ones included
    numbers: np.ndarray  # (n_good,): number of each good row
    lines: np.ndarray  # (n_good,): line where it starts, from 1; of Parquet the number of the row, from 1
    texts: pa.Array  # (n_good,) of strings; null where there is none
    table: pa.Table  # (n_good, n_columns): the original columns, or whole lines of JSONL
    bad_rows: list[tuple[int, BadRow]]  # with the number of the row

    def set_apart(self, faults: dict[int, tuple[object, str]], path: Path) -> "Chunk":
        """Return the chunk with more bad rows: value and reason of each, by its position among the good ones."""
        bad_rows = [
            (int(self.numbers[i]), BadRow(path, int(self.lines[i]), value, reason))
            for i, (value, reason) in faults.items()
        ]
        fits = np.ones(len(self.numbers), dtype=bool)
        fits[list(faults)] = False
        return replace(
            self,
            numbers=self.numbers[fits],
            lines=self.lines[fits],
            texts=self.texts.filter(pa.array(fits)),
            table=self.table.filter(pa.array(fits)),
            bad_rows=sorted([*self.bad_rows, *bad_rows], key=itemgetter(0)),
        )


class Source:
    """One input file: its columns, which of them holds the texts, and its rows.

    Args:
        path: the file.
        format: one of `INPUT_FORMATS`; None for that of the suffix.
        text_column: name of the column of texts; None for the only one whose name is in `TEXT_NAMES`, else the only
            one that holds strings.
        label_column: name of the column of labels, of a labelled file; a .tsv without header then holds text and label,
            and a row of JSONL may lack any other key.
        keep_lines: whether a row of JSONL stays a line, not taken apart; it then has the one column `line`.
        reserved: names that no column may have, as they will be added.

    Attributes:
        format, compression: how the file is written.
        names: the columns.
        text_column: the column that was named or chosen; None for a file without anything in it.
        candidates: the columns that could hold texts.
        schema: the original columns with their types.

    Raises:
        FileNotFoundError: if there is no such file.
        ManyColumns: if there are several columns to choose from.
        UserError: if there is no such column; if a column is `reserved`; if the file is not what its suffix says.
    """

    def __init__(
        self,
        path: Path,
        format: str | None = None,
        *,
        text_column: str | None = None,
        label_column: str | None = None,
        keep_lines: bool = False,
        reserved: frozenset[str] = frozenset(),
    ):
        self.path, self.text_column, self.label_column = path, text_column, label_column
        self.format, self.compression = find_layout(path, INPUT_FORMATS, format)
        self.keep_lines, self._reserved = keep_lines and self.format == "jsonl", reserved
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist.")
        self._has_header = self.format == "csv"
        self.schema, candidates = self._read_columns()
        self.names = self.schema.names
        self.candidates = [name for name in candidates if name != label_column]
        self.text_column = self._choose_text_column() if self.names else None
        if self.keep_lines:
            self.schema = pa.schema([("line", pa.string())])
        elif not reserved.isdisjoint(self.names):
            self._refuse_reserved(self.names, path)

    def _read_columns(self) -> tuple[pa.Schema, list[str]]:
        """Return the columns with their types, and the names of those that could hold texts."""
        with self._open() as stream:
            if self.format == "parquet":
                schema = pq.ParquetFile(stream).schema_arrow
                return schema, [field.name for field in schema if is_text(field.type)]
            if self.format == "txt":
                names = candidates = ["text"]
            elif self.format == "jsonl":
                head = (row for _, _, row in islice(read_jsonl(stream, self.path), _ROWS_LOOKED_AT))
                rows = [row for row in head if isinstance(row, dict) and row]
                typical = (row for row in rows for key in row if self._is_wanted(key) and isinstance(row[key], str))
                first = next(typical, rows[0] if rows else {})
                names, candidates = list(first), [key for key in first if isinstance(first[key], str | None)]
            else:
                _, names = next((read_csv if self.format == "csv" else read_tsv)(stream, self.path), (1, []))
                names = candidates = self._read_header(names)
        try:
            return pa.schema([(name, pa.string()) for name in names]), candidates
        except UnicodeEncodeError as error:
            raise UserError(f"{self.path}:1: the names of the columns are not valid UTF-8. {NOT_UTF8}") from error

    def _read_header(self, names: list[str]) -> list[str]:
        """Return the columns of a CSV or TSV file, from the fields of its first line."""
        if self.format == "csv":
            if self.text_column is None and len(names) == 1:
                if separator := next((mark for mark in ";\t|" if mark in names[0]), None):
                    raise UserError(
                        f"{self.path}:1: are the columns {names[0]!r} separated by {separator!r}? Save them with "
                        f"commas: pd.read_csv(OLD, sep={separator!r}).to_csv(NEW, index=False); a file from Excel may "
                        "need encoding='cp1252' as well. If it is the name of one column, give it as --text_column; if "
                        "a text, the file has no header: let its name end in .txt."
                    )
                if not self._is_wanted(names[0]):
                    logger.warning(
                        "%s: the first line, %r, is taken for the name of the column. If it is a text, the file has no "
                        "header: let its name end in .txt.", self.path, names[0],
                    )  # fmt: skip
            return names
        is_labelled = self.label_column is not None
        self._has_header = any(map(self._is_wanted, names)) and (not is_labelled or self.label_column in names)
        logger.info("%s: the first line is %s header", self.path, "a" if self._has_header else "a row, there is no")
        if self._has_header or not names:
            return names
        if is_labelled:
            return [self.text_column or SMSA_COLUMNS[0], self.label_column]
        if len(names) > 2 or (len(names) == 2 and names[1] not in LABELS and self.text_column != SMSA_COLUMNS[0]):
            raise UserError(
                f"{self.path}:1: none of {', '.join(map(repr, names))} is a known name for a text column. If this "
                "is a header, name the column with --text_column. A .tsv without header is a text a line, or text "
                "and label as in SmSA; where its labels are not SmSA's, give --text_column text."
            )
        return list(SMSA_COLUMNS[: len(names)])

    def _is_wanted(self, name: str) -> bool:
        """Whether the name is that of the column of texts, by what was named, else by what is common."""
        return name == self.text_column if self.text_column else name.strip().lower() in TEXT_NAMES

    def _choose_text_column(self) -> str:
        """Return which column holds the texts, having checked that each one that was named is there, once."""
        listed = f"The columns are: {', '.join(map(repr, self.names))}."
        for name, option in ((self.text_column, "--text_column"), (self.label_column, "--label_column")):
            n_found = self.names.count(name)
            if name is not None and n_found != 1:
                found = f"{n_found} columns" if n_found else "no column"
                raise UserError(f"{self.path}: {found} named {name!r}. {listed} Choose with {option}.")
        chosen = [name for name in self.names if self._is_wanted(name)] or self.candidates
        if len(chosen) != 1:
            raise ManyColumns(
                f"{self.path}: which column holds the texts? Name it with --text_column. {listed} If these are no "
                "names, the file lacks the line with them: put it above.",
                self.candidates,
            )
        if chosen[0] == self.label_column:
            raise UserError(f"{self.path}: texts and labels cannot both be in {self.label_column!r}.")
        if chosen[0] not in self.candidates:
            raise UserError(f"{self.path}: the column {chosen[0]!r} does not hold text. Name another: --text_column.")
        return chosen[0]

    def _refuse_reserved(self, names: Iterable[str], place: object) -> None:
        raise UserError(
            f"{place}: there is a column {', '.join(name for name in names if name in self._reserved)} already, which "
            "prediction would add. Let the added names begin with something, for example --prefix smsa_, or rename "
            "yours."
        )

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """Open the file, decompressed; what goes wrong with it names it."""
        try:
            if self.compression:
                raw = pa.input_stream(str(self.path), compression=self.compression)
            else:
                raw = self.path.open("rb", buffering=0)
            with raw, io.BufferedReader(raw, 1 << 20) as stream:
                if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                    raise UserError(
                        f"{self.path} is in UTF-16, not UTF-8: pd.read_csv(OLD, encoding='utf-16').to_csv(NEW, "
                        "index=False); of Excel's Unicode Text with sep='\\t' as well."
                    )
                yield stream
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path} cannot be read: {error}") from error

    def chunks(self, n_rows: int, first: int = 0) -> Iterator[Chunk]:
        """Yield all rows in order, `n_rows` at a time, counted from `first`; the last chunk may be shorter."""
        start = first
        with self._open() as stream:
            if self.format == "parquet":
                columns = [self.text_column, self.label_column] if self.label_column else None
                batches = pq.ParquetFile(stream, pre_buffer=False).iter_batches(n_rows, columns=columns)
                for table in _rechunk(batches, n_rows):
                    numbers = np.arange(start, start + len(table))
                    texts = table[self.text_column].cast(pa.string()).combine_chunks()
                    yield Chunk(start, len(table), numbers, numbers - first + 1, texts, table, [])
                    start += len(table)
                return
            rows = self._rows(stream)
            while chunk := list(islice(rows, n_rows)):
                yield self._to_chunk(start, chunk)
                start += len(chunk)

    def _rows(self, stream: BinaryIO) -> Iterator[tuple[int, list | BadRow]]:
        """Yield (line, values); of JSONL whose lines are kept, the values are the line and the text."""
        if self.format == "txt":
            yield from ((line, [text]) for line, text in read_lines(stream))
            return
        if self.format != "jsonl":
            width = len(self.names) or None
            rows = read_csv(stream, self.path) if self.format == "csv" else read_tsv(stream, self.path, width)
            yield from islice(rows, 1 if self._has_header else 0, None)
            return
        wanted = [name for name in (self.text_column, self.label_column) if name is not None]
        for line, content, row in read_jsonl(stream, self.path, float if self.keep_lines else Decimal):
            values = row
            if isinstance(row, dict):
                if self.keep_lines and not self._reserved.isdisjoint(row):
                    self._refuse_reserved(row, f"{self.path}:{line}")
                if missing := [name for name in wanted if name not in row]:
                    reason = f"no {missing[0]!r}"
                elif not wanted or not isinstance(row[self.text_column], str | None):
                    reason = "the text is not a string"
                elif self.keep_lines or self.label_column is not None or row.keys() == set(self.names):
                    reason = None
                else:
                    reason = f"the keys are not those of the first row ({', '.join(self.names)})"
                if reason:
                    values = BadRow(self.path, line, row, reason)
                elif self.keep_lines:
                    values = [content, row[self.text_column]]
                else:
                    values = [_to_text(row.get(name)) for name in self.names]
            yield line, values

    def _to_chunk(self, start: int, rows: list[tuple[int, list | BadRow]]) -> Chunk:
        lines, values = zip(*rows, strict=True)
        good = [i for i, row in enumerate(values) if not isinstance(row, BadRow)]
        try:
            columns = [pa.array(column, pa.string()) for column in zip(*(values[i] for i in good), strict=True)]
        except UnicodeEncodeError:  # rare, so that only then each value is looked at
            good = set(good)
            fit = {i for i in good if all(is_unicode(value) for value in values[i] if value)}
            bad = {i: BadRow(self.path, lines[i], values[i], "not valid UTF-8") for i in good - fit}
            return self._to_chunk(start, [(line, bad.get(i, row)) for i, (line, row) in enumerate(rows)])
        columns = columns or [pa.array([], pa.string())] * (len(self.schema) + self.keep_lines)
        # behind a line that is kept stands its text; a file whose rows are all bad may have no columns
        text_at = -1 if self.keep_lines or not self.names else self.names.index(self.text_column)
        return Chunk(
            first=start,
            n_read=len(rows),
            numbers=start + np.array(good, dtype=np.int64),
            lines=np.array(lines)[good],
            texts=columns[text_at] if columns else pa.array([], pa.string()),
            table=pa.Table.from_arrays(columns[: len(self.schema)], schema=self.schema),
            bad_rows=[(start + i, row) for i, row in enumerate(values) if isinstance(row, BadRow)],
        )


def _to_text(value: object) -> str | None:
    """Return a JSON value as text: strings as they are, numbers with their own digits, the rest as JSON again."""
    if isinstance(value, str | None):
        return value
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=float)


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
