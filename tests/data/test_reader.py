"""Files of every format: what goes in comes back, and what cannot be trusted is named by file and line."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import write_file

from smsa.data.reader import Source, find_layout
from smsa.errors import UserError


@pytest.mark.parametrize("first_line, columns, text_column, n_rows", [
    ("enak\tpositive", ["text", "gold"], "text", 2),
    ("enak", ["text"], "text", 2),
    ("id\tUlasan\tlabel", ["id", "Ulasan", "label"], "Ulasan", 1),
])  # fmt: skip
def test_tsv_with_and_without_header(tmp_path, first_line, columns, text_column, n_rows):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first_line}\n" + "\t".join("x" * len(columns)) + "\n", encoding="utf-8")
    source = Source(path)
    assert (source.names, source.text_column) == (columns, text_column)
    assert sum(chunk.n_read for chunk in source.chunks(10)) == n_rows


def test_tsv_of_other_labels_has_no_header_if_one_says_so(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("enak\tpositif\nkotor\tnegatif\n", encoding="utf-8")
    assert [w.texts.to_pylist() for w in Source(path, text_column="text").chunks(9)] == [["enak", "kotor"]]


@pytest.mark.parametrize("header, chosen", [("id,review,date", "review"), ("a", "a"), ("Teks,judul", "Teks")])
def test_the_only_sensible_column_is_taken(tmp_path, header, chosen):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n", encoding="utf-8")
    assert Source(path).text_column == chosen


def test_a_first_line_that_may_be_a_text_is_pointed_out(tmp_path, caplog):
    for name, content, is_said in (
        ("a.csv", "bagus sekali\njelek\n", True),
        ("b.csv", "ulasan\njelek\n", False),
        ("c.csv", "a,ulasan\n1,x\n", False),
    ):  # fmt: skip
        caplog.clear()
        (tmp_path / name).write_text(content)
        Source(tmp_path / name)
        assert ("'bagus sekali', is taken for the name of the column. If it is a text" in caplog.text) is is_said
    caplog.clear()
    assert Source(tmp_path / "a.csv", text_column="bagus sekali").text_column == "bagus sekali"
    assert not caplog.text


def test_one_column_may_have_any_name_where_it_is_no_header_of_csv_or_is_named(tmp_path):
    pq.write_table(pa.table({"isi|ulasan": ["enak"]}), tmp_path / "a.parquet")
    assert Source(tmp_path / "a.parquet").text_column == "isi|ulasan"
    (tmp_path / "a.jsonl").write_text('{"isi; ulasan": "enak"}\n')
    assert Source(tmp_path / "a.jsonl").text_column == "isi; ulasan"
    (tmp_path / "a.csv").write_text('"Apa pendapat Anda? (a; b)"\nenak\n')
    assert Source(tmp_path / "a.csv", text_column="Apa pendapat Anda? (a; b)").schema.names


@pytest.mark.parametrize("name, content, options, message", [
    ("a.csv", b"id,judul\n1,x\n", {}, "which column holds the texts.*The columns are: 'id', 'judul'"),
    ("a.csv", b"id;text;n\n1;x;2\n", {}, "separated by ';'. Save them with commas"),
    ("a.csv", b"\nid,text\n1,x\n", {}, "a.csv:1: the line that should name the columns is blank"),
    ("a.csv", b"text,text\n1,x\n", {}, "which column holds the texts"),
    ("a.csv", b"id,text\n1,x\n", {"text_column": "teks"}, "no column named 'teks'. The columns are: 'id', 'text'"),
    ("a.csv", b"text,label\nx,y\n", {"reserved": frozenset(["label"])}, "column label already.*--prefix smsa_"),
    ("a.jsonl", b'{"text":"x","label":1}\n', {"reserved": frozenset(["label"])}, "column label already"),
    ("a.tsv", b"a\tb\tc\n", {}, "none of 'a', 'b', 'c' is a known name for a text column"),
    ("a.tsv", b"no\tulasan_pembeli\n1\tx\n", {}, "none of 'no', 'ulasan_pembeli' is a known name"),
    ("a.parquet", b"text\nx\n", {}, "a.parquet cannot be read"),
    ("a.csv.gz", b"text\nx\n", {}, "a.csv.gz cannot be read"),
    ("a.jsonl.zst", b"text\nx\n", {}, "a.jsonl.zst cannot be read"),
    ("a.csv", b"te\xffxt\nx\n", {}, "not valid UTF-8. What is not UTF-8 may be Windows-1252.*encoding='cp1252'"),
    ("a.csv", b"text|n\nx|2\n", {}, r"separated by '\|'\? Save them with commas: pd.read_csv\(OLD, sep='\|'"),
    ("a.tsv", b"\xfe\xff\0t\0\n", {}, "a.tsv is in UTF-16, not UTF-8"),
    ("a.csv", "text,n\nx,1\n".encode("utf-16"), {}, "a.csv is in UTF-16, not UTF-8: .*encoding='utf-16'"),
    ("a.tsv", b'text\tn\na\t1\n"b\nc"\t2\n', {}, "a.tsv:3: a quote that is not closed; found '\"b'.*save it as CSV"),
    ("a.xlsx", b"PK", {}, "the suffix must be one of .*pd.read_excel"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_refused_by_name(tmp_path, name, content, options, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(Source(path, keep_lines=True, **options).chunks(9))


def test_a_number_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "x": ["a", "b"]}), path)
    for text_column in ("text", None):
        with pytest.raises(UserError, match="'text' does not hold text"):
            Source(path, text_column=text_column)
    assert Source(path, text_column="x").text_column == "x"


BAD = {
    "csv": (b'id,text\n1,"a\nb"\n2\n3,c\n', 4, "1 field(s) instead of 2"),
    "csv blank": (b"id,text\n1,a\n\n3,c\n", 3, "a blank line"),
    "csv not UTF-8": (b"id,text\n1,a\n2,b\xff\n3,c\n", 3, "not valid UTF-8"),
    "tsv": (b"id\ttext\n1\ta\n2\t3\t4\n3\tc\n", 3, "3 field(s) instead of 2"),
    "tsv with words quoted": (b'id\ttext\n1\ta\n"x" y\n3\tc\n', 3, "1 field(s) instead of 2"),
    "jsonl": (b'{"text":"a"}\n{"text":1}\n{"text":"c"}\n', 2, "the text is not a string"),
    "jsonl no object": (b'{"text":"a"}\n[]\n{"text":"c"}\n', 2, "not an object"),
    "jsonl without": (b'{"text":"a"}\n{}\n{"text":"c"}\n', 2, "no 'text'"),
    "jsonl broken": (b'{"text":"a"}\n{"text":\n{"text":"c"}\n', 2, "not valid JSON"),
    "jsonl surrogate": (b'{"text":"a"}\n{"text":"\\ud800"}\n{"text":"c"}\n', 2, "not valid UTF-8"),
    "txt": (b"a\nb\xff\nc\n", 2, "not valid UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("n_rows", [1, 2, 10])
def test_a_bad_row_stands_apart_with_its_line(tmp_path, case, n_rows):
    content, line, reason = BAD[case]
    path = tmp_path / f"a.{case.split()[0]}"
    path.write_bytes(content)
    chunks = list(Source(path, keep_lines=True).chunks(n_rows))
    (bad,) = [bad for chunk in chunks for bad in chunk.bad_rows]
    assert (bad[0], bad[1].line) == (1, line)
    assert reason in bad[1].reason
    assert [n for chunk in chunks for n in chunk.numbers] == [0, 2]
    assert sum(chunk.n_read for chunk in chunks) == 3
    assert [str(text)[0] for chunk in chunks for text in chunk.texts] == ["a", "c"]


@pytest.mark.parametrize("content", [b'text\na\n"b\nc\n', b'text\na\n"b"x\nc\n'])
def test_where_csv_ends_to_be_csv_nothing_more_is_read(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.csv:3: not valid CSV from here on"):
        list(Source(path).chunks(9))


def test_a_truncated_gzip_is_not_a_short_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    write_file(path, [{"text": str(i) * 50} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="a.csv.gz cannot be read"):
        list(Source(path).chunks(9))


@pytest.mark.parametrize("head", ["{}", "[]", '{"text":1,"id":"x"}', '{"id":"x"}'])
@pytest.mark.parametrize("text_column", [None, "text"])
def test_an_odd_first_line_of_jsonl_decides_nothing(tmp_path, head, text_column):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{head}\n{{"id":"1","text":"a"}}\n{{"id":"2","text":"b"}}\n', encoding="utf-8")
    for keep_lines in (True, False):
        (chunk,) = Source(path, keep_lines=keep_lines, text_column=text_column).chunks(9)
        assert chunk.texts.to_pylist() == ["a", "b"]
        assert [number for number, _ in chunk.bad_rows] == [0]


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.parquet.gz"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="suffix must be one of|compressed inside"):
        find_layout(tmp_path / name)


@pytest.mark.parametrize("before", [100, 131072])
def test_a_long_field_is_read_and_the_limit_of_the_process_stays(tmp_path, before):
    path, limit = tmp_path / "a.csv", csv.field_size_limit(before)
    path.write_text("text\n" + "enak " * 100_000 + "\nkotor\n")
    try:
        for chunk in Source(path).chunks(1):
            assert csv.field_size_limit() == before
        path.write_text('text\nenak\n"open\n')
        with pytest.raises(UserError):
            list(Source(path).chunks(9))
        assert csv.field_size_limit() == before
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("keep_lines", [True, False])
def test_a_file_of_bad_rows_only_has_no_columns_and_no_texts(tmp_path, keep_lines):
    (tmp_path / "a.jsonl").write_text("[]\n1\n{}\n")
    (chunk,) = Source(tmp_path / "a.jsonl", keep_lines=keep_lines).chunks(9)
    assert (chunk.n_read, len(chunk.texts), [bad.line for _, bad in chunk.bad_rows]) == (3, 0, [1, 2, 3])
