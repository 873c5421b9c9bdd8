"""Bytes of a file -> its rows, one by one, each with its line: compression, encodings, CSV and TSV, workbooks.

A row that cannot be read does not stop the others: a `BadRow` takes its place. The order in this file: bad rows,
opening files, the meaning of names and cells, finding the separator, and reading rows.
"""

import codecs
import csv
import io
import logging
import re
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from smsa.errors import UserError

logger = logging.getLogger(__name__)

SHEETS = ("xlsx", "xls", "xlsm", "xlsb", "ods")
INPUT_FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "txt", *SHEETS)
_ALIASES = {"tab": "tsv", "ndjson": "jsonl"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zip": "zip"}
INPUT_SUFFIXES = (
    ".zip",
    *(f".{name}" for name in (*INPUT_FORMATS, *_ALIASES)),
    *(f".{name}{packed}" for name in ("csv", "tsv", "jsonl", "json", "txt", *_ALIASES) for packed in (".gz", ".zst")),
)
BAD_ROWS_SHOWN = 20
VALUE_SHOWN = 60  # characters of a bad value in a message
WHOLE_BYTES = 2**27  # limit of workbooks and .json, which are read as a whole; unpacked, a workbook may be 8 times that
FIELD_LIMIT = 2**24  # characters in a field of CSV; a quote left open would otherwise read the whole file into one
_FIELD_LIMIT_LOCK = threading.Lock()
_LINES_AT_ONCE = 512  # lines of CSV that are read under the lock
_NO_SEPARATOR = "\x1f"  # for the csv module, in a file of one column, whose commas are text
# The first bytes of binary formats, and the suffix that such a file needs
_SIGNATURES = {b"PK\x03\x04": ".xlsx or .zip", b"\xd0\xcf\x11\xe0": ".xls", b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst"}
# Errors from damaged files; RuntimeError comes from a .zip with a password or an unknown compression
_UNREADABLE = (OSError, EOFError, ValueError, pa.ArrowException, zipfile.BadZipFile, zlib.error, RuntimeError)
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, as its mark begins with that of UTF-16
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Signs of UTF-8, even if broken: two of its bytes in a row, or one that Windows-1252 lacks or hardly ever uses.
_NOT_WINDOWS = re.compile(rb"[\xc2-\xf4][\x80-\xbf]|[\x81\x8d\x8f\x90\x9d\xc2\xc3\xd0\xde\xf0\xfe\xff]")
# Words in the names of columns, English and Indonesian, lower case, without the s of a plural.
_TEXT = frozenset(
    "text teks sentence kalimat content isi konten body review ulasan comment komentar komen tweet cuitan message "
    "pesan snippet caption feedback opini pendapat tanggapan testimoni keluhan kritik".split()
)
_RAW = frozenset(  # may stand beside a word of _TEXT: full_text, Ulasan Pengguna, Kritik dan Saran
    "full original raw asli laporan aduan pengaduan pengguna pelanggan netizen saran kesan".split()
)
_LABEL = frozenset("label sentiment sentimen polarity polaritas kelas class target".split())
_RATING = frozenset("rating score skor bintang star nilai".split())
_OTHER = frozenset(  # known so that a line of such words is recognised as a header
    "id no nomor index unnamed nama name user username author penulis pengguna date datetime tanggal tgl time waktu "
    "timestamp stempel cap created at like count url link lang location lokasi title judul kategori category version "
    "versi product produk source thumb up reply replied usia umur gender email alamat address".split()
)
_KNOWN = _TEXT | _RAW | _LABEL | _RATING | _OTHER
SENTIMENTS = {  # words for labels
    **dict.fromkeys(("positive", "positif", "pos"), "positive"),
    **dict.fromkeys(("neutral", "netral", "neu", "neut", "net"), "neutral"),
    **dict.fromkeys(("negative", "negatif", "neg"), "negative"),
}
REPLY = re.compile("repl(y|ie[ds])|balasan|tanggapan|developer|owner", re.IGNORECASE)  # names of columns of replies
_NUMBER = re.compile(r"[+-]?[\d.,]*\d%?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T][\d:.+Z]*)?|https?://\S+")
_SAID_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # a first line that tells Excel the separator
# Only writers of CSV leave these: a first line whose fields are all quoted, and a field with doubled quotes
_QUOTED_NAMES = re.compile(r'"[^"]*"([\t ;,|])"[^"]*"(?:\1"[^"]*")*\s*')
_DOUBLED = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*\w""(?:[^"\t]|"")*"(?=\t|\s*$)')
_TORN = re.compile(r'^[^"]+[^"\d]"$')  # the end of a field that spans lines; 6" means inches
SURROGATE = re.compile("[\ud800-\udfff]")  # an invalid byte of the encoding, or half a character of JSON
_ESCAPED = re.compile(r'\\(["\\]|\r?\n)')
ROWS_ABOVE = 10  # title rows that a header may have above it

Cells = Sequence[str | None]
Row = tuple[int, "list | BadRow"]  # the line where it starts, from 1, and its fields


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trusted: where it stands, what was found there and why it was refused.

    `label` is an unknown label, as a label map would name it, and `text` the row's text; None if the reason is another.
    """

    path: Path
    line: int
    value: object
    reason: str
    label: str | None = None
    text: str | None = None

    def __str__(self) -> str:
        value = repr(self.value)  # on one line, and not too long
        value = value if len(value) <= VALUE_SHOWN else f"{value[:VALUE_SHOWN]}... ({len(value)} characters)"
        return f"{self.path}:{self.line}: {self.reason}; found {value}"


class BadRowsError(UserError):
    """Rows that stop a run; the message says how many there are and what to do, and then lists the first 20."""

    def __init__(self, bad_rows: list[BadRow], way_out: str, n_bad_rows: int | None = None):
        self.bad_rows = bad_rows
        n_bad_rows = n_bad_rows or len(bad_rows)
        listed = "\n  ".join(map(str, bad_rows[:BAD_ROWS_SHOWN]))
        more = f"\n  ... and {n_bad_rows - BAD_ROWS_SHOWN:,} more" if n_bad_rows > BAD_ROWS_SHOWN else ""
        super().__init__(f"{n_bad_rows:,} bad row(s). {way_out}\n  {listed}{more}")


def find_layout(path: Path, formats: tuple[str, ...], named: str | None) -> tuple[str, str | None]:
    """Return the format of a file (`named`, else by its suffixes) and its compression, or None.

    Case does not matter. For a .zip, the suffix of the only file of a known format in it decides.

    Raises:
        UserError: if the format is not one of `formats`, or does not go with the compression.
    """
    *_, before, last = ("", "", *(suffix.lower() for suffix in path.suffixes))
    compression = COMPRESSIONS.get(last)
    if compression == "zip" and formats is INPUT_FORMATS and path.is_file():
        before = Path(_find_member(path)).suffix.lower()
    found = named or (before if compression else last)[1:]
    found = _ALIASES.get(found, found) if formats is INPUT_FORMATS else found
    if found not in formats:
        known = ", ".join(f".{name}" for name in formats if name != "submission")
        way_out = "or name the format with --format, for example --format csv."
        if formats is INPUT_FORMATS:
            way_out = (
                "rename a file that is in one of these formats (or give predict.py the format, for example "
                "--input_format csv), unpack an archive, and save any other file as .csv with its own program."
            )
        raise UserError(f"{path}: the suffix must be one of {known}, or of a text format with .gz or .zst; {way_out}")
    if compression == "zip" and formats is not INPUT_FORMATS:
        raise UserError(f"{path}: output cannot be compressed with .zip: put .gz or .zst behind the suffix.")
    if found in ("parquet", *SHEETS) and compression in ("gzip", "zstd"):
        raise UserError(f"{path}: .{found} is compressed already; remove {last}.")
    return found, compression


def _find_member(path: Path) -> str:
    """Return the name of the only file of a known format in a .zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    known = [name for name in names if name.lower().endswith(INPUT_SUFFIXES[1:])]
    if len(known) != 1:
        listed = ", ".join(names[:10]) or "nothing"
        raise UserError(f"{path} holds {listed}; it must hold one file of a known format: unpack it, and name a file.")
    return known[0]


@contextmanager
def open_file(
    path: Path, compression: str | None, encoding: str | None = None, end: str = "\n"
) -> Iterator[io.BufferedReader | io.TextIOWrapper]:
    """Open a file, decompressed; an error, also one while it is read, becomes a UserError that names the file.

    With an encoding, yield text whose lines keep their ends. str.splitlines would also break texts at U+2028, U+0085
    and a bare CR. Bytes that are invalid in the encoding become lone surrogates.
    """
    try:
        with ExitStack() as stack:
            if compression == "zip":
                raw = stack.enter_context(zipfile.ZipFile(path)).open(_find_member(path))
            elif compression:
                raw = pa.input_stream(path.open("rb"), compression=compression)
            else:
                raw = path.open("rb", buffering=0)
            stream = stack.enter_context(io.BufferedReader(stack.enter_context(raw), 1 << 20))
            yield io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline=end) if encoding else stream
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def find_contents(stream: BinaryIO, path: Path, format: str) -> tuple[str, str, str | None]:
    """Return the real format of a file, the encoding of its text and its line end; refuse other kinds.

    The format is `format`, JSON, or CSV if a workbook is only text. The line end is LF (also for CRLF), or CR if there
    is no LF. A byte-order mark or the zeros of UTF-16 show the encoding; else it is UTF-8, or Windows-1252 if there are
    other bytes than ASCII and none show UTF-8. The file is read until some show UTF-8, or to its end. A UTF-8 file with
    a few broken lines is still UTF-8, so that those lines are bad rows.
    """
    block = stream.read(1 << 20)
    head = block[:200]
    suffix = next((name for mark, name in _SIGNATURES.items() if head.startswith(mark)), None)
    plain = re.sub(rb"^(\xef\xbb\xbf|\xff\xfe|\xfe\xff)|\0", b"", head)  # so that UTF-16 matches, too
    pages = rb"<" if format in SHEETS else rb"<(!doctype html|html[\s>]|\?xml version)"
    if re.match(rb"(?i)\s*" + pages + rb"|%PDF-\d|version https://git-lfs\.github", plain):
        kinds = "a web page, XML, a PDF or a pointer of Git LFS (git lfs pull), not a table"
        raise UserError(f"{path} is {kinds}: open it, and save it as .xlsx or .csv.")
    if format in SHEETS:
        is_text = head and not head.startswith(b"PK") and (b"\0" not in head or head.startswith(codecs.BOM_UTF16_LE))
        format = "csv" if is_text and suffix is None else format
    elif format != "parquet" and suffix is not None:
        raise UserError(f"{path} is a workbook or an archive, not text: give its name the suffix {suffix}.")
    elif format != "parquet":
        begins = rb"\[\s*\{" if format == "jsonl" else rb'\{\s*"|\[\s*\{'
        format = "json" if re.match(rb"\s*(?:" + begins + rb")", plain) else format
    if format in ("parquet", *SHEETS):
        return format, "utf-8", None

    found = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if block.startswith(mark)), None)
    for i, encoding in enumerate(("utf-16-be", "utf-16-le")):
        if found is None and block[i:1000:2].count(0) > len(block[:1000]) / 4:
            found = encoding
    start = block.decode(found or "utf-8", errors="ignore")  # decoded, as a byte of UTF-16 may look like a line end
    end = "\r" if "\r" in start and "\n" not in start else "\n"
    while block and found in (None, "cp1252"):
        block += stream.readline(1 << 20)
        if not block.isascii():
            found = "utf-8" if _NOT_WINDOWS.search(block) else "cp1252"
        block = stream.read(1 << 20)
    return format, found or "utf-8", end


def read_whole(stream: BinaryIO, path: Path) -> bytes:
    """Return all bytes of a file that cannot be read in parts; raise a UserError if there are over `WHOLE_BYTES`."""
    content = stream.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        raise UserError(
            f"{path} is larger than {WHOLE_BYTES:,} bytes, the most for a format that is read as a whole: save it as "
            "CSV or JSONL, which may have any size."
        )
    return content


def read_sheets(stream: BinaryIO, path: Path) -> dict[str, list[list]]:
    """Return the rows of each visible sheet, an empty cell as ''; refuse what is damaged, locked or too large."""
    from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    content = io.BytesIO(read_whole(stream, path))
    try:
        if zipfile.is_zipfile(content):
            size = sum(member.file_size for member in zipfile.ZipFile(content).infolist())
            if size > 8 * WHOLE_BYTES:
                raise UserError(f"{path} has {size:,} bytes unpacked, more than {8 * WHOLE_BYTES:,}: save it as CSV.")
        content.seek(0)
        book = CalamineWorkbook.from_filelike(content)
        return {
            sheet.name: book.get_sheet_by_name(sheet.name).to_python(skip_empty_area=False)
            for sheet in book.sheets_metadata
            if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
        }
    except (CalamineError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {error}") from error


def name_kind(name: str | None) -> str | None:
    """Return what a column of this name holds, `text`, `label`, `rating` or `other`; None for an unknown name.

    Case, blanks and underscores mean nothing: full_text, Full Text and fullText are one name.
    """
    found = map(str.lower, re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", name or ""))
    words = {word if word in _KNOWN else word.removesuffix("s") for word in found} - {"dan"}
    for kind, own, beside in (("text", _TEXT, _RAW), ("label", _LABEL, _TEXT), ("rating", _RATING, _TEXT)):
        if words & own and words <= own | beside:
            return kind
    return "other" if words and words <= _KNOWN else None


def is_sentiment(cell: str | None) -> bool:
    """Return whether a cell is a word for a sentiment."""
    return (cell or "").strip().lower() in SENTIMENTS


def are_numbers(values: Iterable[str | None]) -> bool:
    """Return whether some values are not empty, and all of these are numbers, dates or links."""
    found = (value.strip() for value in values if value)
    matches = (_NUMBER.fullmatch(value) for value in found if value)
    return next(matches, None) is not None and all(matches)


def are_quoted(lines: list[str], path: Path) -> bool:
    """Return whether quotes in these lines of .tsv or .txt are CSV's, as R, pandas and Excel write, and not text.

    They are if all names are quoted. If one names a column of texts, they also are if the lines are valid CSV, and
    quotes are doubled in some field or exactly the fields with commas are quoted.
    """
    if _QUOTED_NAMES.fullmatch(lines[0]):
        return all(line.startswith('"') for line in lines[1:2])
    if "text" not in map(name_kind, lines[0].rstrip("\r\n").split("\t")):
        return False
    fields = [field for line in lines for field in line.rstrip("\r\n").split("\t")]
    with_commas = [field for field in fields if "," in field]
    is_excel = with_commas and with_commas == [field for field in fields if field.startswith('"')]
    if not is_excel and not any(map(_DOUBLED.search, lines)):
        return False
    return not any(isinstance(row, BadRow) for _, row in read_separated(lines, path, "\t", "csv"))


def unescape(line: str) -> str:
    """Double the quotes that follow a backslash, as MySQL and R write them, in a line of CSV.

    A backslash before another one, or before the line end, is removed, too; any other is text.
    """
    return _ESCAPED.sub(lambda found: '""' if found[1] == '"' else found[1], line) if "\\" in line else line


def find_separator(lines: list[str], path: Path, format: str) -> tuple[str | None, list[Cells]]:
    """Return the separator of the columns (None for one column) and the fields of each line.

    A separator splits nearly all lines into equally many fields, or it splits off known names or labels. Lines of .txt,
    and of .tsv without a TAB, have several columns only if TABs, labels or a known name of texts show it.
    """
    is_csv, first = format == "csv", "".join(lines[:1])
    marks = [mark for mark in (",", ";", "\t", "|") if any(mark in line for line in lines)]
    said = is_csv and (_SAID_SEPARATOR.fullmatch(first) or _QUOTED_NAMES.fullmatch(first))
    has_tabs = "\t" in marks and (format == "tsv" or 2 * sum("\t" in line for line in lines) > len(lines))
    only = [said[1]] if said else ["\t"] if has_tabs and not is_csv else []
    candidates, splits = only or [*marks, None], []
    for mark in candidates:
        rows = [row if isinstance(row, list) else [] for _, row in read_separated(lines, path, mark, format)]
        filled = [row for row in rows if any(row)] or [[]]
        split = [row for row in filled if len(row) > 1]
        header = next((row for row in rows[:ROWS_ABOVE] if len(row) > 1), []) if mark else filled[0]
        if mark in (",", ";", "|") and len(header) > 1 and all(cell.startswith(" ") for cell in header[1:]):
            candidates.append(f"{mark} ")
            continue
        # the share of rows that have the same number of columns
        alike = max(Counter(map(len, split)).values(), default=0) / len(filled)
        kinds = [*map(name_kind, header)]
        are_known = "text" in kinds or (is_csv and bool(mark) and any(kinds))
        # a few commas in texts make no header, unless all names in it are known
        are_names = are_known and (2 * len(split) >= len(filled) or all(kinds)) and (is_csv or alike >= 0.9)
        is_good = 2 * len(filled) >= len(rows)  # else most rows are bad, as when R names only one of two columns
        ends = zip(*((row[0], row[-1]) for row in split), strict=True)
        are_labels = any(2 * sum(map(is_sentiment, cells)) > len(filled) for cells in ends)
        # in prose, a blank follows each comma
        is_prose = mark and mark[0] in ",;" and not any(re.search(rf"{mark[0]}\S", line) for line in lines)
        is_even = alike >= 0.9 and not is_prose and (is_csv or mark == "\t")
        # names without blanks behind the separators, above texts that contain separators but no quotes
        is_tight = is_csv and mark and len(mark) == 1 and not re.search(r"[,;|\t] ", first)
        is_header = is_tight and len(rows[0]) > 1 and all(re.fullmatch(r"\S+( \S+){0,4}", cell) for cell in rows[0])
        is_below = is_header and sum(len(row) >= len(rows[0]) for row in filled) >= 0.9 * len(filled)
        is_known = (are_names and is_good) or are_labels
        if is_known or is_even or is_below or only or mark is None:
            splits.append(((is_known, alike), mark, rows))
    _, separator, rows = max(splits, key=itemgetter(0))
    return separator, rows


def read_separated(lines: Iterable[str], path: Path, separator: str | None, format: str) -> Iterator[Row]:
    """Yield the rows. In CSV a quoted field may span lines, and a blank line has no fields.

    In other formats, if TABs or nothing separate columns, quotes are ordinary text. In CSV a misplaced quote makes its
    row bad. If that row swallowed other lines, they are read again if they clearly are rows.

    Args:
        lines: with their ends, LF or CRLF; in CSV, a bare CR outside quotes makes its row bad.
        separator: a character, or a character and a blank; None for a file of one column.
        format: csv, tsv or txt.
    """
    if format != "csv" and separator in ("\t", None):
        for number, line in enumerate(lines, start=1):
            line = line.rstrip("\r\n")
            yield number, line.split(separator) if separator else [line]
        return
    mark, number, lines, left = separator or _NO_SEPARATOR, 1, iter(lines), []  # left: to be read again
    while block := left or [*islice(lines, _LINES_AT_ONCE)]:
        n_lines, n_read, rows, error = len(block), 0, [], None
        behind = (block.append(line) or line for line in lines)  # lines that the last row may need
        given = chain(islice(block, n_lines), behind)
        reader = csv.reader(given, delimiter=mark[0], skipinitialspace=len(mark) > 1, strict=True)
        with _FIELD_LIMIT_LOCK:  # the limit holds for the whole process, and its default refuses texts over 128 KiB
            limit = csv.field_size_limit(FIELD_LIMIT)
            try:
                for row in reader:
                    end = reader.line_num
                    if end == n_read + 1 and block[n_read].count('"') % 2 and any(map(_TORN.search, row)):
                        row = BadRow(path, number + n_read, row, "a quote ends a field that begins without one")
                    elif separator is None and row:
                        row = [mark.join(row)]
                    rows.append((number + n_read, row))
                    if (n_read := end) >= n_lines:
                        break
            except csv.Error as raised:
                error = raised
            finally:
                csv.field_size_limit(limit)
        yield from rows
        number, left = number + n_read, []
        if error is not None:
            spoilt = block[n_read : reader.line_num]
            n_spoilt = _count_spoilt(spoilt, separator)
            upto = f", up to line {number + n_spoilt - 1}" if n_spoilt > 1 else ""
            reason = "a bare CR" if "new-line" in str(error) else "a quote is not closed, or stands within quotes"
            yield number, BadRow(path, number, "".join(spoilt[:n_spoilt]).rstrip("\r\n"), f"{reason}{upto}")
            number, left = number + n_spoilt, block[n_read + n_spoilt :]


def _count_spoilt(lines: list[str], separator: str | None) -> int:
    """Return how many lines belong to a row with a quote too many: one if the others clearly are rows, else all.

    They are if each has as many fields as the first, and the quote in the last one begins a field.
    """
    first, *rest = lines
    if separator is None or not rest:
        return len(lines)
    last = rest.pop().rstrip("\r\n") if '"' in rest[-1] else None
    begins = last is None or last.startswith('"') or last[: last.index('"')].endswith(separator)
    n_fields = first.count(separator)
    return 1 if begins and n_fields and all(line.count(separator) == n_fields for line in rest) else len(lines)
