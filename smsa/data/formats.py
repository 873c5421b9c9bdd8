"""Bytes of a file -> its rows, one by one, each with its line: how it is written, CSV and its like, workbooks.

What is wrong with a row stays with that row: a `BadRow` comes in its place. In this order: what is wrong, opening a
file, what a name and a cell say, finding what separates fields, reading rows, and fitting them to the first ones.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, pairwise
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
WHOLE_BYTES = 2**27  # of Excel and of JSON that is no JSONL, which are read as a whole; Excel's, unpacked, 8 times that
FIELD_LIMIT = 2**24  # characters in a field of CSV; a quote left open would otherwise read the whole file into one
_FIELD_LIMIT_LOCK = threading.Lock()
_LINES_AT_ONCE = 512  # of CSV, under the lock
_NO_SEPARATOR = "\x1f"  # stands for one in a file of one column, whose commas are text
# What files of other formats begin with, and the suffix that they need
_SIGNATURES = {b"PK\x03\x04": ".xlsx or .zip", b"\xd0\xcf\x11\xe0": ".xls", b"\x1f\x8b": ".gz", b"(\xb5/\xfd": ".zst"}
# What reading a damaged file raises, or (the last) a .zip that has a password, or is packed in another way
_UNREADABLE = (OSError, EOFError, ValueError, pa.ArrowException, zipfile.BadZipFile, zlib.error, RuntimeError)
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins like the next
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Bytes of UTF-8; and those that Windows-1252 does not have, or hardly, for they are what is left of broken UTF-8.
_NOT_WINDOWS = re.compile(rb"[\xc2-\xf4][\x80-\xbf]|[\x81\x8d\x8f\x90\x9d\xc2\xc3\xd0\xde\xf0\xfe\xff]")
# Words in the names of columns, English and Indonesian, lower case, without the s of a plural.
_TEXT = frozenset(
    "text teks sentence kalimat content isi konten body review ulasan comment komentar komen tweet cuitan message "
    "pesan snippet caption feedback opini pendapat tanggapan testimoni keluhan kritik".split()
)
_RAW = frozenset(  # may stand beside those: full_text, Ulasan Pengguna, Kritik dan Saran
    "full original raw asli laporan aduan pengaduan pengguna pelanggan netizen saran kesan".split()
)
_LABEL = frozenset("label sentiment sentimen polarity polaritas kelas class target".split())
_RATING = frozenset("rating score skor bintang star nilai".split())
_OTHER = frozenset(  # so that a line of them is known to name columns
    "id no nomor index unnamed nama name user username author penulis pengguna date datetime tanggal tgl time waktu "
    "timestamp stempel cap created at like count url link lang location lokasi title judul kategori category version "
    "versi product produk source thumb up reply replied usia umur gender email alamat address".split()
)
_KNOWN = _TEXT | _RAW | _LABEL | _RATING | _OTHER
SENTIMENTS = {  # the words of labels
    **dict.fromkeys(("positive", "positif", "pos"), "positive"),
    **dict.fromkeys(("neutral", "netral", "neu", "neut", "net"), "neutral"),
    **dict.fromkeys(("negative", "negatif", "neg"), "negative"),
}
REPLY = re.compile("repl(y|ie[ds])|balasan|tanggapan|developer|owner", re.IGNORECASE)  # what answers the texts
_NUMBER = re.compile(r"[+-]?[\d.,]*\d%?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T][\d:.+Z]*)?|https?://\S+")
_SAID_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # a first line for Excel
# A first line whose fields are all quoted, and a field whose quotes are doubled: what only a writer of CSV leaves
_QUOTED_NAMES = re.compile(r'"[^"]*"([\t ;,|])"[^"]*"(?:\1"[^"]*")*\s*')
_DOUBLED = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*\w""(?:[^"\t]|"")*"(?=\t|\s*$)')
_TORN = re.compile(r'^[^"]+[^"\d]"$')  # 6" is no torn field, but one of inches
SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not of the encoding, or half a character of JSON
_ESCAPED = re.compile(r'\\(["\\]|\r?\n)')
ROWS_ABOVE = 10  # title rows that a header may have above it

Cells = Sequence[str | None]
Row = tuple[int, "list | BadRow"]  # the line where it starts, from 1, and its fields


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be trusted: where it stands, what was found there and why it was refused.

    `label` is a label without meaning, as it would be mapped, and `text` its text; None where that is not the reason.
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
    """Return the format of a file, `named` or else by its suffixes, and what it is compressed with, or None.

    Case does not matter; in a .zip the suffix of the only such file in it tells.

    Raises:
        UserError: if the format is none of `formats`, or one that is compressed inside is compressed once more.
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
                "rename a file that is in one of these (predict.py takes its name, too, for example --input_format "
                "csv), unpack an archive, and save any other as .csv with what wrote it."
            )
        raise UserError(
            f"{path}: the suffix must be one of {known}, the text formats also with .gz or .zst behind it; {way_out}"
        )
    if compression == "zip" and formats is not INPUT_FORMATS:
        raise UserError(f"{path}: what is written can be compressed with .gz or .zst behind the suffix, not .zip.")
    if found in ("parquet", *SHEETS) and compression in ("gzip", "zstd"):
        raise UserError(f"{path}: .{found} is compressed inside; remove {last}.")
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
        raise UserError(f"{path} must hold one file of a known format, and holds {listed}: unpack it, and name a file.")
    return known[0]


@contextmanager
def open_file(
    path: Path, compression: str | None, encoding: str | None = None, end: str = "\n"
) -> Iterator[io.BufferedReader | io.TextIOWrapper]:
    """Open a file, decompressed; what goes wrong with it, also while it is read, names it.

    With an encoding it is text, whose lines have their ends: str.splitlines would also break texts at U+2028, U+0085
    and a bare CR. Bytes that are not of the encoding become lone surrogates.
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


def find_contents(stream: io.BufferedReader, path: Path, format: str) -> str:
    """Return the format that a file is in, whatever its suffix: JSON, or text in place of a workbook; refuse others."""
    head = stream.peek()[:200]
    suffix = next((name for mark, name in _SIGNATURES.items() if head.startswith(mark)), None)
    plain = re.sub(rb"^(\xef\xbb\xbf|\xff\xfe|\xfe\xff)|\0", b"", head)  # of UTF-16, too
    pages = rb"<" if format in SHEETS else rb"<(!doctype html|html[\s>]|\?xml version)"
    if re.match(rb"(?i)\s*" + pages + rb"|%PDF-\d|version https://git-lfs\.github", plain):
        kinds = "a web page, XML, a PDF or a pointer of Git LFS (git lfs pull), and no table"
        raise UserError(f"{path} is {kinds}: save it as .xlsx or .csv with what opens it.")
    if format in SHEETS:
        is_text = head and not head.startswith(b"PK") and (b"\0" not in head or head.startswith(codecs.BOM_UTF16_LE))
        return "csv" if is_text and suffix is None else format
    if format != "parquet" and suffix is not None:
        raise UserError(f"{path} is no text: give its name the suffix {suffix}, as it is a workbook or an archive.")
    begins = rb"\[\s*\{" if format == "jsonl" else rb'\{\s*"|\[\s*\{'
    return "json" if format != "parquet" and re.match(rb"\s*(?:" + begins + rb")", plain) else format


def find_encoding(stream: BinaryIO) -> tuple[str, str]:
    """Return the encoding of text and what ends its lines: LF, as in CRLF, or CR where there is no LF.

    A byte-order mark tells the encoding, or the zeros of UTF-16; else it is UTF-8, or Windows-1252 where nothing is
    UTF-8. A file is read as far as that needs: to its first line that is not ASCII, to its end where all such lines
    look like Windows-1252. A UTF-8 file with a few broken lines stays one, so that these are bad rows.
    """
    block = stream.read(1 << 20)
    found = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if block.startswith(mark)), None)
    for i, encoding in enumerate(("utf-16-be", "utf-16-le")):
        if found is None and block[i:1000:2].count(0) > len(block[:1000]) / 4:
            found = encoding
    start = block.decode(found or "utf-8", errors="ignore")  # a byte of UTF-16 may be that of a line end by chance
    end = "\r" if "\r" in start and "\n" not in start else "\n"
    if found:
        return found, end
    found = "utf-8"
    while block:
        block += stream.readline(1 << 20)
        if not block.isascii():
            if _NOT_WINDOWS.search(block):
                return "utf-8", end
            found = "cp1252"
        block = stream.read(1 << 20)
    return found, end


def read_whole(stream: BinaryIO, path: Path) -> bytes:
    """Return all bytes of a file that cannot be read in parts; more than `WHOLE_BYTES` are a UserError."""
    content = stream.read(WHOLE_BYTES + 1)
    if len(content) > WHOLE_BYTES:
        raise UserError(
            f"{path} is larger than {WHOLE_BYTES:,} bytes, and its format is read as a whole: save it as CSV or JSONL, "
            "which may be of any size."
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


def name_kind(name: str | None) -> str | None:
    """Return what a column of this name holds, `text`, `label`, `rating` or `other`, None for a name that is not known.

    Case, blanks and underscores mean nothing: full_text, Full Text and fullText are one name.
    """
    found = map(str.lower, re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", name or ""))
    words = {word if word in _KNOWN else word.removesuffix("s") for word in found} - {"dan"}
    for kind, own, beside in (("text", _TEXT, _RAW), ("label", _LABEL, _TEXT), ("rating", _RATING, _TEXT)):
        if words & own and words <= own | beside:
            return kind
    return "other" if words and words <= _KNOWN else None


def is_sentiment(cell: str | None) -> bool:
    """Whether a cell is a word for a sentiment."""
    return (cell or "").strip().lower() in SENTIMENTS


def are_numbers(values: Iterable[str | None]) -> bool:
    """Whether there are values, and all of them that have anything in them are numbers, dates or links."""
    found = (value.strip() for value in values if value)
    matches = (_NUMBER.fullmatch(value) for value in found if value)
    return next(matches, None) is not None and all(matches)


def are_quoted(lines: list[str], path: Path) -> bool:
    """Whether the quotes in these lines of .tsv or .txt are those of CSV, as R, pandas and Excel write, and no text.

    All names are quoted, or, below the name of a column of texts, quotes are doubled and none stands by itself, or just
    the fields that have commas are quoted.
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
    """Return a line of CSV whose quotes are doubled where a backslash stands before them, as MySQL and R write them.

    A backslash that stands before another, or before the end of a line, is taken away, too; others are text.
    """
    return _ESCAPED.sub(lambda found: '""' if found[1] == '"' else found[1], line) if "\\" in line else line


def find_separator(lines: list[str], path: Path, format: str) -> tuple[str | None, list[Cells]]:
    """Return what separates the columns of these lines, None for lines of one column, and their fields.

    It is what splits nearly all lines alike, or splits off a name or labels that are known. Lines of .txt, and of .tsv
    without a TAB, have columns only if TABs, labels or a known name of texts say so.
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
        # a few commas in texts split off no names, unless all of these are known
        are_names = are_known and (2 * len(split) >= len(filled) or all(kinds)) and (is_csv or alike >= 0.9)
        is_good = 2 * len(filled) >= len(rows)  # else most rows are bad, as where R names one of two columns
        ends = zip(*((row[0], row[-1]) for row in split), strict=True)
        are_labels = any(2 * sum(map(is_sentiment, cells)) > len(filled) for cells in ends)
        # in prose a blank stands behind each comma
        is_prose = mark and mark[0] in ",;" and not any(re.search(rf"{mark[0]}\S", line) for line in lines)
        is_even = alike >= 0.9 and not is_prose and (is_csv or mark == "\t")
        # below names, which have no blank behind what separates them, texts with separators without quotes
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

    Where TABs, or nothing, separate another format, quotes are ordinary text. In CSV a quote that stands where none may
    makes its row bad. Where it swallowed other lines, these are rows again if they are no doubt rows.

    Args:
        lines: with their ends, which are LF or CRLF; a bare CR that is not within the quotes of CSV makes its row bad.
        separator: between fields, with a blank behind it where the blank is part of it; None for a file of one column.
        format: csv, tsv or txt.
    """
    if format != "csv" and separator in ("\t", None):
        for number, line in enumerate(lines, start=1):
            line = line.rstrip("\r\n")
            yield number, line.split(separator) if separator else [line]
        return
    mark, number, lines, left = separator or _NO_SEPARATOR, 1, iter(lines), []  # left: what a bad row swallowed
    while block := left or [*islice(lines, _LINES_AT_ONCE)]:
        n_lines, n_read, rows, error = len(block), 0, [], None
        behind = (block.append(line) or line for line in lines)  # which the last row may need
        given = chain(islice(block, n_lines), behind)
        reader = csv.reader(given, delimiter=mark[0], skipinitialspace=len(mark) > 1, strict=True)
        with _FIELD_LIMIT_LOCK:  # the limit is the process's, and its default refuses texts over 128 KiB
            limit = csv.field_size_limit(FIELD_LIMIT)
            try:
                for row in reader:
                    end = reader.line_num
                    if end == n_read + 1 and block[n_read].count('"') % 2 and any(map(_TORN.search, row)):
                        row = BadRow(path, number + n_read, row, "a quote ends a field that none begins")
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
    """Return how many lines belong to a row with a quote too many: the first only, if each other one is surely a row.

    It is where it has as many fields as the first, and the last one's quote begins a field.
    """
    first, *rest = lines
    if separator is None or not rest:
        return len(lines)
    last = rest.pop().rstrip("\r\n") if '"' in rest[-1] else None
    begins = last is None or last.startswith('"') or last[: last.index('"')].endswith(separator)
    n_fields = first.count(separator)
    return 1 if begins and n_fields and all(line.count(separator) == n_fields for line in rest) else len(lines)


@dataclass
class Head:
    """What the first rows of a table show, for the others to be read by."""

    format: str  # csv, tsv or txt, whatever the suffix says; of a workbook its own
    separator: str | None = None  # as in `read_separated`
    change: Callable[[str], str] | None = None  # what makes lines those of CSV or TSV; None where they are
    names: list[str] = field(default_factory=list)
    n_above: int = 0  # rows up to the names, these included
    whole: list[Cells] = field(default_factory=list)  # those of the first rows that have a value for each column
    may_end_empty: bool = False  # the last column
    has_told: bool = False  # what is unusual about the rows, in the log

    @cached_property
    def is_number(self) -> list[bool]:
        """Whether each column holds numbers, dates or links only."""
        return [*map(are_numbers, zip(*self.whole, strict=True))]


def fit_rows(lines: Iterable[str], path: Path, head: Head, text_at: int, is_labelled: bool) -> Iterator[Row]:
    """Yield the rows below the names. What a row lacks at its end are nulls; it is bad if the next line is the rest.

    A row that ends before `text_at`, the place of the texts, is bad. In a labelled file lines of separators alone, as
    spreadsheets leave behind, are no rows; a prediction has a row for each.
    """
    names, width = head.names, len(head.names)
    # names that come again, also where files with byte-order marks were put together
    no_rows = [names, [f"\ufeff{names[0]}", *names[1:]]] if width > 1 else []
    no_rows += [[""] * width] if head.format == "csv" and is_labelled else []
    lines = map(head.change, lines) if head.change else lines
    read = islice(read_separated(lines, path, head.separator, head.format), head.n_above, None)
    fitted = (
        (line, fields, fields)
        if fields.__class__ is list and len(fields) == width and fields not in no_rows
        else (line, None if fields in no_rows else _fit(fields, line, path, head, text_at), fields)
        for line, fields in read
    )
    is_spoilt, n_no_rows, n_short, first_short = False, 0, 0, 0  # spoilt by a quote that was left open
    for (line, row, fields), (_, following, rest) in pairwise(chain(fitted, [(0, None, None)])):
        if row is None:
            n_no_rows += 1
            continue
        if row.__class__ is list and len(row) == width:
            is_spoilt = False
        elif row.__class__ is list:
            rest = getattr(rest, "value", rest)
            if isinstance(following, BadRow) and isinstance(rest, list) and len(row) + len(rest) == width + 1:
                row = BadRow(path, line, row, "the row goes on in the next line, without quotes")
            elif is_spoilt:
                row = BadRow(path, line, row, f"{len(row)} field(s) instead of {width}")
            else:
                row = row + [None] * (width - len(row))
                n_short, first_short = n_short + 1, first_short or line
        is_spoilt = is_spoilt or isinstance(fields, BadRow)
        yield line, row
    short = f"rows lack fields at their end, which are nulls, the first in line {first_short}"
    for n, told in ((n_short, short), (n_no_rows, "lines that are blank, or name the columns again, are no rows")):
        if n and not head.has_told:
            logger.info("%s: %s %s", path, f"{n:,}", told)
    head.has_told = True


def _fit(fields: list | BadRow, line: int, path: Path, head: Head, text_at: int) -> list | BadRow | None:
    """Return what a row has that is not as the names: fewer values, too, if they fit; None if it is no row."""
    if isinstance(fields, BadRow):
        return fields
    n_fields, width, is_csv, is_blank = len(fields), len(head.names), head.format == "csv", not any(fields)
    if is_blank and (width == 1 or is_csv):
        return [""] if width == 1 else None
    # where the last column may be empty, a comma within a text would push its values aside
    if n_fields > width and not any(fields[width:]) and not head.may_end_empty:
        return fields[:width]
    bad_row = BadRow(path, line, fields, "a blank line" if is_blank else f"{n_fields} field(s) instead of {width}")
    if is_blank or n_fields > width:
        return bad_row
    if not is_csv and fields[-1].startswith('"') and fields[-1].count('"') % 2:
        # the lines below, which are the rest of the text, would pass for rows
        way_out = "Quotes are ordinary text here: give the file the suffix .csv, where TABs may separate columns."
        raise UserError(f"{bad_row}, a quote that is not closed. {way_out}")
    cells = fields[0].split(head.separator[0]) if is_csv and n_fields == 1 else []
    if len(cells) >= width and not all(cell.startswith(" ") for cell in cells[1:]):
        ends_row = is_sentiment(cells[-1]) or (head.is_number[-1:] == [True] and are_numbers(cells[-1:]))
        if ends_row or text_at > 0:  # else it may be a text with commas
            # as Excel writes a row that it has in one cell; the quotes within are doubled
            inner = [row for _, row in read_separated(fields, path, head.separator, "csv")]
            is_row = len(inner) == 1 and isinstance(inner[0], list) and len(inner[0]) == width
            if is_row and all(are_numbers([cell or "0"]) for cell, n in zip(inner[0], head.is_number) if n):
                return inner[0]
            return bad_row
    if text_at >= n_fields or any(field.count('"') % 2 for field in fields):
        return bad_row
    fits = all(not is_number or are_numbers([field]) for field, is_number in zip(fields, head.is_number))
    return fields if fits else bad_row
