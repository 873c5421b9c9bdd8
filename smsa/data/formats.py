"""Bytes of a file -> its rows, one by one, each with its line: one function for each text format.

What is wrong with a row stays with that row: a `BadRow` comes in its place.
"""

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from smsa.errors import UserError

BAD_ROWS_SHOWN = 20
VALUE_SHOWN = 60  # characters of a bad value in a message
NOT_UTF8 = (
    "What is not UTF-8 may be Windows-1252, as Excel's plain CSV is: convert it with pandas, "
    "pd.read_csv(OLD, encoding='cp1252').to_csv(NEW, index=False), so that no row is lost."
)
FIELD_LIMIT = 2**26  # characters in a field of CSV; a quote left open would otherwise read the whole file into one
_FIELD_LIMIT_LOCK = threading.Lock()
_CSV_BATCH = 256  # rows parsed under the lock


def show(value: object) -> str:
    """Return a value as a message may have it: on one line, and not too long."""
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
    """Rows that stop a run; the message lists the first 20, and says how many there are and what to do."""

    def __init__(self, bad_rows: list[BadRow], way_out: str, n_bad_rows: int | None = None):
        self.bad_rows = bad_rows
        n_bad_rows = n_bad_rows or len(bad_rows)
        listed = "\n  ".join(map(str, bad_rows[:BAD_ROWS_SHOWN]))
        if any("UTF-8" in row.reason for row in bad_rows):
            way_out = f"{NOT_UTF8} {way_out}"
        more = f"\n  ... and {n_bad_rows - BAD_ROWS_SHOWN:,} more" if n_bad_rows > BAD_ROWS_SHOWN else ""
        super().__init__(f"{n_bad_rows:,} bad row(s):\n  {listed}{more}\n{way_out}")


def is_unicode(text: str) -> bool:
    """Whether `text` can be written: bytes that are not UTF-8 were read as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield (line from 1, text), split at LF only: str.splitlines would also break texts at U+2028, U+0085, bare CR.

    A byte-order mark at the start and the CR of a CRLF are not part of the text. Bytes that are not UTF-8 become lone
    surrogates, so that only their own row is refused (`is_unicode`).
    """
    for number, raw in enumerate(stream, start=1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", errors="surrogateescape")


def read_csv(stream: BinaryIO, path: Path) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (line where the row starts, fields); the first row is the header. A quoted field may span lines.

    Raises:
        UserError: where the file stops being CSV: text after a closing quote, a quote that is never closed; or if its
            first line is blank.
    """
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(lines, strict=True)
    line, width = 1, None
    while True:
        batch = []
        with _FIELD_LIMIT_LOCK:  # the limit is the process's, and its default refuses texts over 128 KiB
            limit = csv.field_size_limit(FIELD_LIMIT)
            try:
                for row in islice(rows, _CSV_BATCH):
                    batch.append((line, row))
                    line = rows.line_num + 1
            except csv.Error as error:
                raise UserError(f"{path}:{line}: not valid CSV from here on: {error}.") from error
            finally:
                csv.field_size_limit(limit)
        if not batch:
            return
        for number, row in batch:
            if width is None and not row:
                raise UserError(f"{path}:{number}: the line that should name the columns is blank.")
            row = row or [""] if width == 1 else row  # a blank line is a row of one empty field
            width = width or len(row)
            yield number, row if len(row) == width else BadRow(path, number, row, _miscount(row, width))


def _miscount(fields: list[str], width: int) -> str:
    return f"{len(fields)} field(s) instead of {width}" if any(fields) else "a blank line"


def read_tsv(stream: BinaryIO, path: Path, width: int | None = None) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (line, fields), split at tabs; quotes are ordinary text. `width` None is that of the first line.

    Raises:
        UserError: where a row is quoted as in CSV and goes on in the next line, which would be taken for a row.
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
            yield number, BadRow(path, number, line, _miscount(fields, width))


def read_jsonl(
    stream: BinaryIO, path: Path, parse_float: Callable[[str], object] = float
) -> Iterator[tuple[int, str, dict | BadRow]]:
    """Yield (line, the line itself, object); `parse_float` takes the digits of numbers that are not whole."""
    for number, line in read_lines(stream):
        try:
            row = json.loads(line, parse_float=parse_float)
        except (ValueError, RecursionError) as error:  # not JSON; a number too long, or nesting too deep, to read
            row = BadRow(path, number, line, f"not valid JSON ({error})")
        if not isinstance(row, dict | BadRow):
            row = BadRow(path, number, row, "not an object")
        yield number, line, row
