"""The first rows of a file -> how its columns are separated, what they are called, which holds texts, which labels.

A name that people give such a column decides, else what stands in it. What has no sensible answer is asked.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from smsa.data.formats import read_csv
from smsa.data.labels import SENTIMENTS

# Words in the names of columns, English and Indonesian, lower case, without the s of a plural.
_TEXT = frozenset(
    "text teks sentence kalimat content isi konten body review ulasan comment komentar komen tweet cuitan message "
    "pesan snippet caption feedback opini pendapat tanggapan testimoni keluhan".split()
)
_RAW = frozenset("full original raw asli".split())  # beside one of these words they name the column all the more
_LABEL = frozenset("label sentiment sentimen polarity polaritas kelas class target".split())
_OTHER = frozenset(  # so that a line of them is known to name columns
    "id no nomor index nama name user username author penulis pengguna date datetime tanggal tgl time waktu timestamp "
    "created at score skor rating bintang star like count url link lang location lokasi title judul version versi "
    "product produk source thumb up reply replied".split()
)
_KNOWN = _TEXT | _RAW | _LABEL | _OTHER
_NUMBER = re.compile(r"[+-]?[\d.,]*\d%?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T][\d:.+Z]*)?|https?://\S+")
_WORD = re.compile(r"https?://\S+|@\w+|([^\W\d_]+)")
ROWS_ABOVE = 10  # title rows that a header may have above it

_KINDS = {"text", "label", "other"}

Row = Sequence[str | None]


def name_kind(name: str | None) -> str | None:
    """Return what a column of this name holds, `text`, `label` or `other`, None for a name that is not known.

    Case, blanks and underscores mean nothing: full_text, Full Text and fullText are one name.
    """
    found = map(str.lower, re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", name or ""))
    words = {word if word in _KNOWN else word.removesuffix("s") for word in found}
    if words & _TEXT and words <= _TEXT | _RAW:
        return "text"
    if words & _LABEL and words <= _LABEL | _TEXT:
        return "label"
    return "other" if words and words <= _KNOWN else None


def find_separator(lines: list[str], path: Path, format: str) -> tuple[str | None, list[Row]]:
    """Return what separates the columns of these lines, None for lines of one column, and their fields.

    It is what splits nearly all lines alike, or splits off a name that is known. Lines of .txt have columns only if
    TABs say so, or a known name of texts. In .tsv, and where TABs separate a .txt, quotes are ordinary text.
    """
    is_csv, found = format == "csv", {}
    plain = [line.rstrip("\r\n") for line in lines]
    if format == "tsv":
        return "\t", [line.split("\t") for line in plain]
    for mark in (",", ";", "\t", "|"):
        if mark == "\t" and not is_csv:
            rows = [line.split("\t") for line in plain]
        else:
            rows = [row if isinstance(row, list) else [] for _, row in read_csv(lines, path, mark)]
        filled = [row for row in rows if any(row)] or [[]]
        widths = Counter(map(len, filled))
        header = next((row for row in filled[:ROWS_ABOVE] if len(row) > 1), [])
        kinds = set(map(name_kind, header)) - {None}
        width, n_alike = max(widths.items(), key=lambda item: (item[1], item[0]))
        alike = max(n_alike * (width > 1), widths[len(header)]) / len(filled)
        n_split = sum(n for n_fields, n in widths.items() if n_fields > 1)
        is_prose = mark == "," and not any(re.search(r",\S", line) for line in plain)
        by_name = ("text" in kinds or (is_csv and bool(kinds))) and (
            2 * n_split >= len(filled) or all(map(name_kind, header))
        )
        by_lines = alike >= 0.9 and not is_prose and (is_csv or mark == "\t")
        if (by_name and (is_csv or alike >= 0.9)) or by_lines:
            found[mark] = (by_name, alike, len(header)), rows
    if found:
        best = max(found, key=lambda mark: found[mark][0])
        return best, found[best][1]
    if not is_csv:
        return None, [[line] for line in plain]
    return None, [row if isinstance(row, list) else [] for _, row in read_csv(lines, path, None)]


def find_header(rows: list[Row], named: str | None = None) -> int | None:
    """Return which row names the columns, None if none does.

    Args:
        rows: the first rows.
        named: the column that the user calls that of the texts.

    Raises:
        LookupError: if the first row may be names or values.
    """
    if re.fullmatch(r"column_\d+", named or "") and not any(named in row for row in rows[:ROWS_ABOVE]):
        return None  # so a file without header has its columns numbered
    n_filled = [sum(bool(cell and cell.strip()) for cell in row) for row in rows]
    first = next((i for i, n in enumerate(n_filled) if n and 2 * n > max(n_filled)), None)
    if first is None:
        return 0
    is_one_column = max(n_filled) == 1
    below = list(zip_longest(*rows[first + 1 :]))  # the cells below each of the first row
    are_numbers = [any(cells) and all(_NUMBER.fullmatch(cell.strip()) for cell in cells if cell) for cells in below]
    for i, row in enumerate(rows[:ROWS_ABOVE]):
        sentiments = [j for j, cell in enumerate(row) if (cell or "").strip().lower() in SENTIMENTS]
        if any(j >= len(below) or not are_numbers[j] for j in sentiments):
            return None  # a label, which no column is called where texts stand below
        if all(n < n_filled[i] for n in n_filled[:i]) and 2 * n_filled[i] > max(n_filled):  # above it stands less
            if named in row or {name_kind(cell) for cell in row} & ({"text"} if is_one_column else _KINDS):
                return i
    says_names = says_values = False
    for cell, cells, are_all in zip(rows[first], below, are_numbers, strict=False):
        is_number = bool(cell and _NUMBER.fullmatch(cell.strip()))
        says_names |= are_all and bool(cell) and not is_number
        says_values |= is_number or (bool(cell) and cell in cells)
    says_values |= any(len((cell or "").split()) >= (3 if is_one_column else 6) for cell in rows[first])
    if says_names == says_values:
        raise LookupError
    return first if says_names else None


def find_text_columns(names: list[str], columns: list[Sequence[object]], is_typed: bool) -> tuple[list[int], list[int]]:
    """Return the places of the columns that are the texts by name or else by content, and of those that could be.

    By content it is the one whose values are long and various, twice as much as those of any other.

    Args:
        columns: some values of each column.
        is_typed: numbers are no strings in this format, so that a single column of strings is that of the texts.
    """
    could, weights = [], [0.0] * len(names)
    for i, values in enumerate(columns):
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        n_words = [sum(map(bool, _WORD.findall(text))) for text in texts]
        if any(n_words) or (not texts and all(value is None or isinstance(value, str) for value in values)):
            could.append(i)
            weights[i] = sum(n_words) / len(texts) * len(set(texts)) / len(texts) if texts else 0.0
    named = [i for i, name in enumerate(names) if name_kind(name) == "text"]
    known = [i for i in named if i in could] or named
    if len(known) == 1 or (len(could) == 1 and (is_typed or len(names) == 1)):
        return known or could, could
    labels = [i for i, name in enumerate(names) if name_kind(name) == "label"]
    if not known and len(names) == 2 and len(labels) == 1:
        return [1 - labels[0]], could
    ranked = sorted(known or could, key=weights.__getitem__, reverse=True)
    second = weights[ranked[1]] if len(ranked) > 1 else 0.0
    stands_out = bool(ranked) and weights[ranked[0]] >= max(3.0, 2 * second)
    return ranked[:1] if stands_out else known, could
