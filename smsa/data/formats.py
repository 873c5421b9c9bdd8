"""Bytes of a file -> its rows, one by one, each with its line: how it is written, CSV and its like, workbooks.

What is wrong with a row stays with that row: a `BadRow` comes in its place. What stands in which column is found in the
first rows: a name that people give such a column decides, else what is in it; what has no sensible answer is asked.
"""

import codecs
import csv
import io
import re
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from smsa.errors import UserError

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
    "timestamp stempel cap created at score skor rating bintang star like count url link lang location lokasi title "
    "judul kategori category version versi product produk source thumb up reply replied usia umur gender email alamat "
    "address".split()
)
_KNOWN = _TEXT | _RAW | _LABEL | _RATING | _OTHER
SENTIMENTS = {  # the words of labels
    **dict.fromkeys(("positive", "positif", "pos"), "positive"),
    **dict.fromkeys(("neutral", "netral", "neu", "neut", "net"), "neutral"),
    **dict.fromkeys(("negative", "negatif", "neg"), "negative"),
}
REPLY = re.compile("repl(y|ie[ds])|balasan|tanggapan|developer|owner", re.IGNORECASE)  # what answers the texts
_NUMBER = re.compile(r"[+-]?[\d.,]*\d%?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T][\d:.+Z]*)?|https?://\S+")
# A key of letters and digits is none; jalan2 is how people write jalan-jalan
_WORD = re.compile(r"https?://\S+|@\w+|(?![^\W\d_]+2(?![\w-]))[\w-]{0,20}\d[\w-]*|([^\W\d_]+)")
_SAID_SEPARATOR = re.compile(r'"?sep=(.)"?\s*')  # a first line for Excel
# A first line whose fields are all quoted, and a field whose quotes are doubled: what only a writer of CSV leaves
_QUOTED_NAMES = re.compile(r'"[^"]*"([\t ;,|])"[^"]*"(?:\1"[^"]*")*\s*')
_DOUBLED = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*\w""(?:[^"\t]|"")*"(?=\t|\s*$)')
_TORN = re.compile(r'^[^"]+[^"\d]"$')  # 6" is no torn field, but one of inches
SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is not of the encoding, or half a character of JSON
_ESCAPED = re.compile(r'\\(["\\]|\r?\n)')
_ROWS_WEIGHED = 200  # for what a column holds
_ROWS_EMPTY = 10  # show that a column of texts by its name is none
ROWS_ABOVE = 10  # title rows that a header may have above it

Cells = Sequence[str | None]
Row = tuple[int, "list | BadRow"]  # the line where it starts, from 1, and its fields


def find_layout(path: Path, formats: tuple[str, ...], named: str | None) -> tuple[str, str | None]:
    """Return the format of a file and what it is compressed with, or None.

    Args:
        path: the file, whose suffixes tell, in any case; in a .zip those of the only such file in it.
        formats: those that are accepted.
        named: a format that was named, and wins over the suffix; None if none was.

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
    """Return the format that a file is in, whatever its suffix: JSON, or text in place of a workbook, show it.

    Raises:
        UserError: for what is in yet another format.
    """
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
    mark, number, lines, again = separator or _NO_SEPARATOR, 1, iter(lines), []
    while block := again or [*islice(lines, _LINES_AT_ONCE)]:
        n_lines, n_read, rows, error = len(block), 0, [], None
        behind = (block.append(line) or line for line in lines)  # which the last row may need
        reader = csv.reader(
            chain(islice(block, n_lines), behind), delimiter=mark[0], skipinitialspace=len(mark) > 1, strict=True
        )
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
            except csv.Error as found:
                error = found
            finally:
                csv.field_size_limit(limit)
        yield from rows
        number, again = number + n_read, []
        if error is not None:
            spoilt = block[n_read : reader.line_num]
            n_spoilt = _count_spoilt(spoilt, separator)
            upto = f", up to line {number + n_spoilt - 1}" if n_spoilt > 1 else ""
            reason = "a bare CR" if "new-line" in str(error) else "a quote is not closed, or stands within quotes"
            yield number, BadRow(path, number, "".join(spoilt[:n_spoilt]).rstrip("\r\n"), f"{reason}{upto}")
            number, again = number + n_spoilt, block[n_read + n_spoilt :]


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


def are_quoted(lines: list[str], path: Path) -> bool:
    """Whether the quotes in these lines of .tsv or .txt are those of CSV, as R, pandas and Excel write, and no text.

    All names are quoted, or, below the name of a column of texts, quotes are doubled and none stands by itself, or just
    the fields that have commas are quoted.
    """
    if lines and _QUOTED_NAMES.fullmatch(lines[0]):
        return all(line.startswith('"') for line in lines[1:2])
    fields = [field for line in lines for field in line.rstrip("\r\n").split("\t")]
    quoted = [field for field in fields if field.startswith('"')]
    is_excel = quoted == [field for field in fields if "," in field] != []
    names = lines[0].rstrip("\r\n").split("\t") if is_excel or any(map(_DOUBLED.search, lines)) else []
    rows = read_separated(lines, path, "\t", "csv")
    return "text" in map(name_kind, names) and not any(isinstance(row, BadRow) for _, row in rows)


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
    is_csv, found = format == "csv", {}
    marks = [mark for mark in (",", ";", "\t", "|") if any(mark in line for line in lines)]
    said = is_csv and lines and (_SAID_SEPARATOR.fullmatch(lines[0]) or _QUOTED_NAMES.fullmatch(lines[0]))
    has_tabs = "\t" in marks and (format == "tsv" or 2 * sum("\t" in line for line in lines) > len(lines))
    only = [said[1]] if said else ["\t"] if has_tabs and not is_csv else []
    for mark in (marks := only or [*marks, None]):
        rows = [row if isinstance(row, list) else [] for _, row in read_separated(lines, path, mark, format)]
        filled = [row for row in rows if any(row)] or [[]]
        header = next((row for row in rows[:ROWS_ABOVE] if len(row) > 1), []) if mark else filled[0]
        if mark in (",", ";", "|") and len(header) > 1 and all(cell.startswith(" ") for cell in header[1:]):
            marks.append(f"{mark} ")
            continue
        kinds = set(map(name_kind, header)) - {None}
        n_split = sum(len(row) > 1 for row in filled)
        alike = max((n for width, n in Counter(map(len, filled)).items() if width > 1), default=0) / len(filled)
        by_name = "text" in kinds or (is_csv and bool(mark and kinds))
        by_name &= (2 * n_split >= len(filled) or all(map(name_kind, header))) and (is_csv or alike >= 0.9)
        by_name &= 2 * len(filled) >= len(rows)  # else most are bad, as where R names one of two columns
        ends = zip(*((row[0], row[-1]) for row in filled if len(row) > 1), strict=True)
        by_label = any(2 * sum(map(is_sentiment, cells)) > len(filled) for cells in ends)
        # in prose a blank stands behind each comma
        is_prose = (mark or "")[:1] in (",", ";") and not any(re.search(rf"{mark[0]}\S", line) for line in lines)
        by_lines = alike >= 0.9 and not is_prose and (is_csv or mark == "\t")
        # below names, which have no blank behind what separates them, texts with separators without quotes
        is_tight = is_csv and len(mark or "") == 1 and not re.search(r"[,;|\t] ", lines[0])
        n_names = len(rows[0]) if rows and all(re.fullmatch(r"\S+( \S+){0,4}", cell) for cell in rows[0]) else 0
        by_lines |= is_tight and n_names > 1 and sum(len(row) >= n_names for row in filled) >= 0.9 * len(filled)
        if by_name or by_label or by_lines or only or mark is None:
            found[mark] = (by_name or by_label, alike), rows
    best = max(found, key=lambda mark: found[mark][0])
    return best, found[best][1]


def find_header(rows: list[Cells], named: str | None) -> tuple[int, list[str]] | None:
    """Return how many rows the names of the columns end after, and the names; None if no row has them.

    Args:
        rows: the first rows.
        named: the column that the user calls that of the texts, or None.

    Raises:
        LookupError: if the first row may be names or values.
    """
    if re.fullmatch(r"column_\d+", named or "") and not any(named in row for row in rows[:ROWS_ABOVE]):
        return None  # so a file without header has its columns numbered
    n_filled = [sum(bool(cell and cell.strip()) for cell in row) for row in rows]
    if not any(n_filled):
        return 1, [*rows[0]]
    if rows[0] and not rows[0][0] and are_numbers(row[0] for row in rows[1:] if row):
        n_filled[0] += bool(n_filled[0])  # an index has no name
    # a row of another width says nothing: one text with many commas without quotes would be wider than all names
    width = Counter(len(row) for row, n in zip(rows, n_filled, strict=True) if n).most_common(1)[0][0]
    most = max(n for n, row in zip(n_filled, rows, strict=True) if len(row) == width)
    is_named = len(rows[0]) > 1 and all(map(name_kind, rows[0]))  # whatever commas without quotes make of the rows
    first = 0 if is_named else next(i for i, n in enumerate(n_filled) if n and 2 * n > most)
    head, is_one_column = rows[first], max(n_filled) == 1
    # the cells below each of the first row, where this does not stand again
    below = [cells[1:] for cells in zip_longest(head, *(row for row in rows[first + 1 :] if row != head))]
    is_number = [*map(are_numbers, below)]
    is_label = [any(cells) and all(map(is_sentiment, filter(None, cells))) for cells in below]
    is_once = [not cell or cell not in cells for cell, cells in zip(head, below)]
    labels = [i for i, cell in enumerate(head) if is_sentiment(cell)]
    if any(is_sentiment(cell) for i in labels for cell in below[i]) or (len(labels) == 1 and not is_number[labels[0]]):
        return None  # labels, which columns are called only in pairs: what was good, and what was bad
    known = {"text"} if is_one_column else {"text", "label", "rating", "other"}
    named = named and named.lower()
    for i, row in enumerate(rows[:ROWS_ABOVE]):
        is_below_less = all(n < n_filled[i] for n in n_filled[:i]) and (i == first or 2 * n_filled[i] > most)
        kinds = {name_kind(cell) for j, cell in enumerate(row) if i != first or is_once[j]}
        # without a name that was given, None: a row of a workbook with an empty cell is more often names
        if not is_below_less or not (known & kinds or named in [cell and cell.lower() for cell in row]):
            continue
        second = rows[i + 1] if len(rows) > i + 1 else []
        # cells that span two rows, and two columns
        is_two = {*zip_longest(map(bool, row), map(bool, second))} >= {(True, False), (False, True)}
        is_two |= "text" in {*map(name_kind, second)} - kinds
        if is_two and all(map(name_kind, filter(None, second))):
            return i + 2, [cell or above for cell, above in zip_longest(second, row, fillvalue="")]
        return i + 1, [*row]
    numbers = [*map(str, range(len(head)))]  # as pandas calls columns that were given no names
    if not is_one_column and (head == numbers or (head[1:] == numbers[:-1] and not head[0] and is_number[0])):
        return first + 1, [*head]
    is_value = [are_numbers([cell]) for cell in head]
    n_words = 3 if is_one_column else 6  # are too many for a name
    says_names = any(cell and not v and (n or w) for cell, v, n, w in zip(head, is_value, is_number, is_label))
    says_values = any(is_value) or not all(is_once) or any(len((cell or "").split()) >= n_words for cell in head)
    if says_names == says_values or head == ["0"]:
        raise LookupError
    return (first + 1, [*head]) if says_names else None


def is_sentiment(cell: str | None) -> bool:
    """Whether a cell is a word for a sentiment."""
    return (cell or "").strip().lower() in SENTIMENTS


def are_numbers(values: Iterable[str | None]) -> bool:
    """Whether there are values, and all of them that have anything in them are numbers, dates or links."""
    found = (value.strip() for value in values if value)
    matches = (_NUMBER.fullmatch(value) for value in found if value)
    return next(matches, None) is not None and all(matches)


def find_text_columns(names: list[str], columns: list[Sequence[object]]) -> tuple[list[int], list[int]]:
    """Return the places of the columns that are the texts by name or else by content, and of those that could be, the
    best first.

    Of several names it is the only one that at least half of the rows fill and that is no reply; by content the one
    whose values are long and various, twice as much as those of any other, but for replies and titles.

    Args:
        columns: some values of each column.
    """
    weights, labels = {}, []
    for i, values in enumerate(columns):
        texts = [*islice((value for value in values if isinstance(value, str) and value.strip()), _ROWS_WEIGHED)]
        n_words = [sum(map(bool, _WORD.findall(text))) for text in texts]
        is_empty = not texts and all(value is None or isinstance(value, str) for value in values)
        if is_empty or (any(n_words) and not are_numbers(texts)):
            weights[i] = sum(n_words) * len({*texts}) / len(texts) ** 2 if texts else 0.0
        if name_kind(names[i]) == "label" or (texts and all(map(is_sentiment, texts))):
            labels.append(i)
    could = sorted(weights, key=lambda i: (i in labels, -weights[i]))  # those that ask for one show the best
    named = [i for i, name in enumerate(names) if name_kind(name) == "text"]
    for i in [i for i in named if name_kind(names[i][:-1]) == "text"]:
        if are_numbers(str(value) for value in columns[i] if value is not None):
            named.remove(i)  # `comments` that are numbers count them
    known = [i for i in named if i in weights] or named
    known = [i for k, i in enumerate(known) if all(columns[i] != columns[j] for j in known[:k])]  # copies are one
    if any(isinstance(value, dict | list) for i in known if i not in weights for value in columns[i]):
        return [], could  # the texts are within
    if known and len(columns[known[0]]) >= _ROWS_EMPTY and not any(any(columns[i]) for i in known):
        return [], could  # it is for remarks, which nobody made
    if known:  # a post or an article is longer than the comments on it
        filled = [i for i in known if not REPLY.search(names[i]) and 2 * sum(map(bool, columns[i])) >= len(columns[i])]
        return filled if len(filled) == 1 else known, could
    if len(names) == 1:
        return could, could
    if len(names) == 2 and len(labels) == 1 and 1 - labels[0] in weights:
        return [1 - labels[0]], could
    ranked = [i for i in could if not REPLY.search(names[i]) and name_kind(names[i]) != "other"]
    ranked = ranked if any(weights[i] >= 3.0 for i in ranked) else could  # replies to titles are texts
    first, second, *_ = [*(weights[i] for i in ranked if i not in labels), 0.0, 0.0]
    return [i for i in ranked if weights[i] == first >= max(3.0, 2 * second)], could
