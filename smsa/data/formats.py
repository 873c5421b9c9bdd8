"""Bytes of a file -> its rows, one by one, each with its line: one function for each format.

What is wrong with a row stays with that row: a `BadRow` comes in its place.
"""

import codecs
import csv
import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from smsa.errors import UserError

BAD_ROWS_SHOWN = 20
VALUE_SHOWN = 60  # characters of a bad value in a message
WHOLE_BYTES = 2**27  # of Excel and of JSON that is no JSONL, which are read as a whole; Excel's, unpacked, 8 times that
FIELD_LIMIT = 2**24  # characters in a field of CSV; a quote left open would otherwise read the whole file into one
_FIELD_LIMIT_LOCK = threading.Lock()
_CSV_BATCH = 256  # rows parsed under the lock
_NO_SEPARATOR = "\x1f"  # stands for one in a file of one column, whose commas are text
# Bytes that Windows-1252 does not have, or that text in it hardly has, for they are what is left of broken UTF-8.
_NOT_WINDOWS = re.compile(rb"[\xc2-\xf4][\x80-\xbf]|[\x81\x8d\x8f\x90\x9d\xc2\xc3\xd0\xde\xf0\xfe\xff]")


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
    """Rows that stop a run; the message says how many there are and what to do, and then lists the first 20."""

    def __init__(self, bad_rows: list[BadRow], way_out: str, n_bad_rows: int | None = None):
        self.bad_rows = bad_rows
        n_bad_rows = n_bad_rows or len(bad_rows)
        listed = "\n  ".join(map(str, bad_rows[:BAD_ROWS_SHOWN]))
        more = f"\n  ... and {n_bad_rows - BAD_ROWS_SHOWN:,} more" if n_bad_rows > BAD_ROWS_SHOWN else ""
        super().__init__(f"{n_bad_rows:,} bad row(s). {way_out}\n  {listed}{more}")


def is_unicode(text: str) -> bool:
    """Whether `text` can be written: bytes that are not UTF-8 were read as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def find_encoding(stream: BinaryIO) -> str:
    """Return the encoding of text: by its byte-order mark, else UTF-8, or Windows-1252 where no line is UTF-8.

    A file is read as far as that needs: to its first line that is not ASCII, to its end where all such lines look like
    Windows-1252. A UTF-8 file with a few broken lines stays one, so that these are bad rows.
    """
    head = stream.read(4)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    found = "utf-8"
    while block := head + stream.read(1 << 20) + stream.readline():
        head = b""
        for line in () if block.isascii() else block.split(b"\n"):
            if line.isascii():
                continue
            try:
                line.decode()
            except UnicodeDecodeError:
                if not _NOT_WINDOWS.search(line):
                    found = "cp1252"
                    continue
            return "utf-8"
    return found


def read_lines(stream: BinaryIO, encoding: str = "utf-8-sig") -> Iterator[tuple[int, str]]:
    """Yield (line from 1, text), split at LF only: str.splitlines would also break texts at U+2028, U+0085, bare CR.

    A byte-order mark at the start and the CR of a CRLF are not part of the text. Bytes that are not UTF-8 become lone
    surrogates, so that only their own row is refused (`is_unicode`).
    """
    lines = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="\n")
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix("\n").removesuffix("\r")


def read_csv(lines: Iterable[str], path: Path, separator: str | None) -> Iterator[tuple[int, list | BadRow]]:
    """Yield (line where the row starts, fields); a quoted field may span lines, a blank line has no fields.

    A quote that stands where none may makes its row bad. Where it swallowed other lines, these are rows again if they
    are no doubt rows: see `_count_spoilt`.

    Args:
        lines: with their ends, which are LF or CRLF; a bare CR that is not within quotes makes its row bad.
        separator: between fields; None for a file of one column.
    """
    mark, line, lines, rows = separator or _NO_SEPARATOR, 1, iter(lines), None
    held: list[str] = []  # the lines of the row that is being read
    while True:
        rows = rows or csv.reader((held.append(one) or one for one in lines), delimiter=mark, strict=True)
        batch, fault = [], None
        with _FIELD_LIMIT_LOCK:  # the limit is the process's, and its default refuses texts over 128 KiB
            limit = csv.field_size_limit(FIELD_LIMIT)
            try:
                for row in islice(rows, _CSV_BATCH):
                    batch.append((line, row if separator or not row else [mark.join(row)]))
                    line += len(held)
                    held.clear()
            except csv.Error as error:
                fault = error
            finally:
                csv.field_size_limit(limit)
        yield from batch
        if fault:
            n_spoilt = _count_spoilt(held, separator)
            upto = f", up to line {line + n_spoilt - 1}" if n_spoilt > 1 else ""
            value = "".join(held[:n_spoilt]).rstrip("\r\n")
            reason = "a bare CR" if "new-line" in str(fault) else "a quote is not closed, or stands within quotes"
            yield line, BadRow(path, line, value, f"{reason}{upto}")
            line, lines, rows = line + n_spoilt, chain(held[n_spoilt:], lines), None
            held = []
        elif not batch:
            return


def _count_spoilt(lines: list[str], separator: str | None) -> int:
    """Return how many lines belong to a row with a quote too many: the first only, if each other one is surely a row.

    It is where it has as many fields as the first, and the last one's quote begins a field.
    """
    first, *rest = lines
    if separator is None or not rest:
        return len(lines)
    last = rest.pop().rstrip("\r\n") if '"' in rest[-1] else None
    begins = last is None or last.startswith('"') or last[last.index('"') - 1] == separator
    n_fields = first.count(separator)
    return 1 if begins and n_fields and all(line.count(separator) == n_fields for line in rest) else len(lines)


def read_jsonl(
    lines: Iterable[tuple[int, str]], path: Path, parse_float: Callable[[str], object] = float
) -> Iterator[tuple[int, str, dict | BadRow]]:
    """Yield (line, the line itself, object); `parse_float` takes the digits of numbers that are not whole."""
    for number, line in lines:
        try:
            row = json.loads(line, parse_float=parse_float)
        except (ValueError, RecursionError) as error:  # not JSON; a number too long, or nesting too deep, to read
            row = BadRow(path, number, line, f"not valid JSON ({error})")
        if not isinstance(row, dict | BadRow):
            row = BadRow(path, number, row, "not an object")
        yield number, line, row


def split_json(stream: BinaryIO, path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield (line, JSON on one line) of each row in a file of JSON: an array, or an object that pandas or an API wrote.

    Such an object holds one array of objects, or a column under each key; its rows are counted, as they have no line.

    Raises:
        UserError: if it is neither, or no JSON.
    """
    text = read_whole(stream, path).decode(encoding, errors="surrogateescape")
    decode, skip = json.JSONDecoder().raw_decode, re.compile(r"[\s,]*").match
    position, line = skip(text, 0).end(), 1
    try:
        if not text.startswith("[", position):
            found = decode(text, position)[0]
            held = list(found.values()) if isinstance(found, dict) else []
            arrays = [rows for rows in held if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
            if len(arrays) == 1:
                rows = arrays[0]
            elif held and all(isinstance(cells, dict) and cells.keys() == held[0].keys() for cells in held):
                rows = [dict(zip(found, cells, strict=True)) for cells in zip(*(c.values() for c in held), strict=True)]
            else:
                raise UserError(f"{path} holds no array of objects, nor columns of one length.")
            yield from enumerate((json.dumps(row, ensure_ascii=False) for row in rows), start=1)
            return
        line += text.count("\n", 0, position)
        position, before = position + 1, position
        while not text.startswith("]", position := skip(text, position).end()):
            line, before = line + text.count("\n", before, position), position
            position = decode(text, position)[1]
            yield line, re.sub(r"[\r\n]", " ", text[before:position])  # a line break within a string is escaped
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}:{line}: not valid JSON from here on ({error}).") from error


def read_sheets(stream: BinaryIO, path: Path) -> dict[str, list[list]]:
    """Return the rows of each sheet of a workbook; an empty cell is ''.

    Raises:
        UserError: for what is no workbook, a damaged one or one with a password, and one that is too large.
    """
    from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    content = io.BytesIO(read_whole(stream, path))
    try:
        if zipfile.is_zipfile(content):
            size = sum(member.file_size for member in zipfile.ZipFile(content).infolist())
            if size > 8 * WHOLE_BYTES:
                raise UserError(f"{path} has {size:,} bytes unpacked; {8 * WHOLE_BYTES:,} are read: save it as CSV.")
        content.seek(0)
        book = CalamineWorkbook.from_filelike(content)
        return {
            sheet.name: book.get_sheet_by_name(sheet.name).to_python(skip_empty_area=False)
            for sheet in book.sheets_metadata
            if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
        }
    except (CalamineError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {error}") from error


def read_whole(stream: BinaryIO, path: Path) -> bytes:
    """Return all bytes of a file that cannot be read in parts.

    Raises:
        UserError: for more than `WHOLE_BYTES`.
    """
    content = stream.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        raise UserError(
            f"{path} is larger than {WHOLE_BYTES:,} bytes, and its format is read as a whole: save it as CSV or JSONL, "
            "which may be of any size."
        )
    return content
