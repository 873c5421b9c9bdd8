"""Random tables in every format, encoding and layout come back cell by cell; damaged ones by name, never otherwise."""

import csv
import io
import re
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tables import write_file, write_workbook

from benchmarks import reading
from smsa.data.datasets import read_rows
from smsa.data.labels import LABELS
from smsa.data.reader import Source
from smsa.errors import UserError

NAMES = ["id", "Ulasan", "nilai"]
hostile = ["NA", "null", "NaN", "#", '"', "''", '"a"', "a,b", "=1+1", "-1", "\u2028x", "x\x85y", "x\ufeffy", "a\rb"]
cells = st.sampled_from(hostile) | st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=12)
# Of Windows-1252: letters and marks that people type; é and ’ side by side would be UTF-8 by chance.
windows = st.text(st.sampled_from("abcdefg ,;|\t\"'\n\r.-éü–“”²"), max_size=12).filter(
    lambda text: not text or all(ord(a) < 128 or ord(b) < 128 for a, b in zip(text, text[1:], strict=False))
)
texts = st.sampled_from(["enak sekali", "tidak enak", "biasa saja ya", "mahal, jauh", 'kata "dia"', "dua\nbaris"])


def rows_of(values) -> st.SearchStrategy:
    return st.lists(st.tuples(st.integers(0, 10**6).map(str), texts | values, values), min_size=1, max_size=6)


def read(path, **options) -> list[list]:
    """Return the cells of a file, nulls as empty ones, having seen no bad row."""
    source = Source(path, **options)
    assert source.names == NAMES and source.text_column == "Ulasan"
    found = []
    for chunk in source.chunks(2):
        assert not chunk.bad_rows
        found += [["" if cell is None else str(cell) for cell in row.values()] for row in chunk.table.to_pylist()]
    return found


@settings(deadline=None, max_examples=100)
@given(
    data=st.data(),
    mark=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\r\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
)
def test_cells_of_csv_come_back(tmp_path_factory, mark, encoding, data, end):
    rows = data.draw(rows_of(windows if encoding in ("cp1252", "utf-16-le") else cells))
    if end == "\r":  # where an LF stands nowhere
        rows = [tuple(cell.replace("\n", " ") for cell in row) for row in rows]
    is_bare = "\r" in end.rstrip("\n")[1:] or any("\r" in cell for row in rows for cell in row)
    quoting = csv.QUOTE_ALL if is_bare else csv.QUOTE_MINIMAL  # which leaves a CR bare
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=mark, lineterminator=end, quoting=quoting).writerows([NAMES, *rows])
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_bytes(written.getvalue().encode(encoding))
    assert read(path) == [list(row) for row in rows]


smsas_texts = cells.filter(lambda text: text.strip() and not set(text) & set("\t\n"))


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.tuples(smsas_texts, st.sampled_from(LABELS)), min_size=1, max_size=8))
def test_texts_of_smsas_form_come_back_to_the_letter(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.tsv"
    path.write_bytes("".join(f"{text}\t{label}\n" for text, label in rows).encode())
    ids = [LABELS.index(label) for _, label in rows]
    assert read_rows(path) == ([text for text, _ in rows], ids, [*range(1, len(rows) + 1)], [])


@settings(deadline=None, max_examples=25)
@given(rows=rows_of(cells), n_above=st.integers(0, 3), in_second=st.booleans())
def test_cells_of_a_workbook_come_back(tmp_path_factory, rows, n_above, in_second):
    rows = [tuple("".join(c for c in cell if c.isprintable()) for cell in row) for row in rows]
    sheets = {"Data": [*[["Laporan"], []][:n_above], NAMES, *rows]}
    if in_second:
        sheets = {"Ringkasan": [["Kategori", "Jumlah"], ["Total", 5]], **sheets}
    path = tmp_path_factory.mktemp("rows") / "a.xlsx"
    write_workbook(path, sheets)
    assert read(path) == [list(row) for row in rows]


@settings(deadline=None, max_examples=150)
@given(
    rows=rows_of(cells),
    at=st.integers(0, 10**6),
    byte=st.sampled_from(b'"",;\xff\t|{:'),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]),
)
def test_a_damaged_table_has_bad_rows_or_a_named_error_and_keeps_other_cells(tmp_path_factory, rows, at, byte, suffix):
    """One byte more below the header: rows of other lines come back as they were. A line break makes two short rows."""
    if suffix == ".tsv":
        rows = [tuple(re.sub(r"[\t\r\n]", " ", cell) for cell in row) for row in rows]
    path = tmp_path_factory.mktemp("rows") / f"a{suffix}"
    write_file(path, [dict(zip(NAMES, row, strict=True)) for row in rows])
    content = bytearray(path.read_bytes())
    start = 0 if suffix == ".jsonl" else content.index(b"\n") + 1
    content.insert(start + at % (len(content) - start), byte)
    path.write_bytes(bytes(content))
    try:
        chunks = list(Source(path, text_column="Ulasan").chunks(100))
    except UserError as error:
        assert path.name in str(error)
        return
    found = [tuple(row.get(name) or "" for name in NAMES) for chunk in chunks for row in chunk.table.to_pylist()]
    changed = list((Counter(found) - Counter(rows)).elements())  # it may have become equal to another
    n_bad = sum(len(chunk.bad_rows) for chunk in chunks)
    assert found == rows or changed or n_bad  # no row is gone without a word
    assert len(changed) <= 1  # a byte within a cell is a part of it, which nothing can tell
    # a quote of CSV may swallow lines, which its bad row names
    assert suffix == ".csv" or len(found) + n_bad == len(rows)


def test_tables_of_every_layout_are_read_at_first_contact_or_asked_about(tmp_path):
    tables = [*reading.make_tables(), *reading.write_odd()]
    found = {table.name: reading.read_table(table, tmp_path) for table in tables}
    assert len(found) >= 150 and {name: how for name, how in found.items() if how != "read"} == {}
