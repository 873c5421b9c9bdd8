"""Bytes of a text file -> its rows, one by one, each with its line; what is wrong with a row stays with that row."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from smsa.errors import UserError

BAD_ROWS_SHOWN = 20
VALUE_SHOWN = 60  # characters of a bad value in a message
NOT_UTF8 = (
    "What is not UTF-8 may be Windows-1252, as Excel's plain CSV is: read it by pandas and write it anew, "
    "pd.read_csv(OLD, encoding='cp1252').to_csv(NEW, index=False), so that no row is lost."
)
FIELD_LIMIT = 2**26  # characters in a field of CSV; a quote left open would otherwise read the whole file into one


def show(value: object) -> str:
    """Get a value as a message may have it: on one line, and not too long."""
    written = repr(value)
    return written if len(written) <= VALUE_SHOWN else f"{written[:VALUE_SHOWN]}... ({len(written)} characters)"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trusted: where it stands, what was found there and why it was refused."""

    path: Path
    line: int
    value: object
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}; found {show(self.value)}"


class BadRowsError(UserError):
    """Rows that stop a run; the message lists the first 20, says how many there are, and the way out."""

    def __init__(self, bad_rows: list[BadRow], way_out: str, n_bad_rows: int | None = None):
        self.bad_rows = bad_rows
        n_bad_rows = n_bad_rows or len(bad_rows)
        listed = "\n  ".join(map(str, bad_rows[:BAD_ROWS_SHOWN]))
        if any("UTF-8" in row.reason for row in bad_rows):
            way_out = f"{NOT_UTF8} {way_out}"
        more = f"\n  ... and {n_bad_rows - BAD_ROWS_SHOWN:,} more" if n_bad_rows > BAD_ROWS_SHOWN else ""
        super().__init__(f"{n_bad_rows:,} bad row(s):\n  {listed}{more}\n{way_out}")


@dataclass(frozen=True)
class Malformed:
    """Stands for a row that could not be taken apart: what was found, and what is wrong with it."""

    value: object
    reason: str


def refuse_other_separator(path: Path, names: list[str]) -> None:
    """Refuse the header of a CSV file whose columns are separated by something else than commas.

    Raises:
        ValueError: with the way out.
    """
    separator = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if separator:
        raise UserError(
            f"{path}:1: are the columns {names[0]!r} separated by {separator!r}? Save them with commas: "
            f"pd.read_csv(OLD, sep={separator!r}).to_csv(NEW, index=False); a file from Excel may need "
            "encoding='cp1252' as well. If it is the name of one column, give it as --text_column; if a text, the file "
            "has no header: let its name end in .txt."
        )


def refuse_utf16(stream: io.BufferedReader, path: Path) -> None:
    """Refuse a file that begins as those do that Excel saves as Unicode Text; nothing is read of others.

    Raises:
        ValueError: with the way out.
    """
    if stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(
            f"{path} is in UTF-16, not UTF-8: pd.read_csv(OLD, encoding='utf-16').to_csv(NEW, index=False); of Excel's "
            "Unicode Text with sep='\\t' as well."
        )


def is_unicode(text: str) -> bool:
    """Tell whether `text` can be written: bytes that are not UTF-8 were read as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield (line from 1, text), split at LF alone: str.splitlines would also break texts at U+2028, U+0085, bare CR.

    A byte-order mark at the start and the CR of a CRLF are not part of the text. Bytes that are not UTF-8 become lone
    surrogates, so that only their own row is refused (`is_unicode`).
    """
    for number, raw in enumerate(stream, start=1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors="surrogateescape")


def read_csv(stream: BinaryIO, path: Path) -> Iterator[tuple[int, list[str] | Malformed]]:
    """Yield (line where the row starts, fields); the first row is the header. A quoted field may span lines.

    Raises:
        ValueError: where the file stops being CSV: text after a closing quote, a quote that is never closed; or if its
            first line is blank.
    """
    csv.field_size_limit(FIELD_LIMIT)  # the default refuses texts over 128 KiB
    lines = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.reader(_without_mark(lines), strict=True)
    line, width = 1, None
    try:
        for row in rows:
            if width is None and not row:
                raise UserError(f"{path}:{line}: the line that should name the columns is blank.")
            row = row or [""] if width == 1 else row  # a blank line is a row of one empty field
            width = width or len(row)
            yield (
                line,
                row if len(row) == width else Malformed(row, _miscount(row, width)),
            )
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line}: not valid CSV from here on: {error}.") from error


def _miscount(fields: list[str], width: int) -> str:
    return f"{len(fields)} field(s) instead of {width}" if any(fields) else "a blank line"


def _without_mark(lines: io.TextIOWrapper) -> Iterator[str]:
    for first in islice(lines, 1):
        yield first.removeprefix("\ufeff")
    yield from lines


def read_tsv(stream: BinaryIO, path: Path, width: int | None = None) -> Iterator[tuple[int, list[str] | Malformed]]:
    """Yield (line, fields), split at tabs; quotes are ordinary text. `width` None is that of the first line.

    Raises:
        ValueError: where a row is quoted as in CSV and goes on in the next line, which would be taken for a row.
    """
    for number, line in read_lines(stream):
        fields = line.split("\t")
        width = width or len(fields)
        if len(fields) == width:
            yield number, fields
        elif len(fields) < width and fields[-1].startswith('"') and fields[-1].count('"') % 2:
            raise UserError(
                f"{path}:{number}: a quote that is not closed; found {show(line)}. Quotes are ordinary text in a "
                ".tsv: save it as CSV, pd.read_csv(OLD, sep='\\t').to_csv(NEW, index=False)."
            )
        else:
            yield number, Malformed(line, _miscount(fields, width))


def read_jsonl(
    stream: BinaryIO, parse_float: Callable[[str], object] = float
) -> Iterator[tuple[int, str, dict | Malformed]]:
    """Yield (line, the line itself, object); `parse_float` gets the digits of numbers that are not whole."""
    for number, line in read_lines(stream):
        try:
            row = json.loads(line, parse_float=parse_float)
        except (ValueError, RecursionError) as error:  # not JSON; a number too long, or nesting too deep, to read
            row = Malformed(line, f"not valid JSON ({error})")
        if not isinstance(row, dict | Malformed):
            row = Malformed(row, "not an object")
        yield number, line, row
