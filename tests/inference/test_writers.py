"""Files of every format: what goes in comes back, and what cannot be trusted is named by file and line."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import HOSTILE, read_file, write_file

from smsa.data.reading import Source
from smsa.inference.writers import (
    INPUT_FORMATS,
    OUTPUT_FORMATS,
    compress,
    escape_formulas,
    find_layout,
    render_header,
    render_rows,
    restore_formulas,
)

TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=20), st.text(alphabet="=+-@'\"\t\r\n,;1\0 \\x", max_size=6)
)
OF_ONE_LINE = TEXTS.filter(lambda text: not set(text) & set("\t\r\n") and text == text.removesuffix("\r"))


def open_source(path, output_format="csv", **options):
    return Source(path, find_layout(path, INPUT_FORMATS), output_format, **options)


def copy(path, target, n_rows):
    """Read a file in windows and write it with one more column, as a job does."""
    layout = find_layout(target, OUTPUT_FORMATS)
    source = open_source(path, layout.format)
    content = compress(render_header(layout.format, [*source.schema.names, "label"]), layout.compression)
    n_read = 0
    for window in source.windows(n_rows):
        assert not window.bad_rows
        assert window.texts.to_pylist() == [row["text"] for row in read_file_texts(window, source)]
        added = pa.table({"label": pa.array(["positive"] * len(window.numbers), pa.string())})
        content += compress(render_rows(layout.format, window.table, added, source.stays_whole), layout.compression)
        n_read += window.n_read
    target.write_bytes(content)
    return n_read


def read_file_texts(window, source):
    return map(json.loads, window.table[0].to_pylist()) if source.stays_whole else window.table.to_pylist()


FORMATS = st.sampled_from(["csv", "csv.gz", "jsonl", "tsv", "jsonl.gz"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=FORMATS, target_suffix=FORMATS, n_rows=st.integers(1, 5))
def test_every_column_and_row_comes_back(tmp_path, data, suffix, target_suffix, n_rows):
    texts = OF_ONE_LINE if "tsv" in suffix + target_suffix else TEXTS
    rows = data.draw(st.lists(st.fixed_dictionaries({"id": texts, "text": texts, "n": texts}), min_size=1, max_size=9))
    path, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{target_suffix}"
    write_file(path, rows)
    assert copy(path, target, n_rows) == len(rows)
    assert read_file(target) == [row | {"label": "positive"} for row in rows]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXTS | st.none(), "n": TEXTS}), min_size=1, max_size=9))
def test_parquet_goes_to_text_formats_and_null_stays_null_in_jsonl(tmp_path, rows):
    path, target = tmp_path / "in.parquet", tmp_path / "out.jsonl"
    write_file(path, rows)
    assert copy(path, target, 4) == len(rows)
    assert read_file(target) == [row | {"label": "positive"} for row in rows]


def test_lines_of_jsonl_stay_as_they_were_to_the_byte(tmp_path):
    lines = ['{"text":"a", "n":1.10, "big":123456789012345678901234567890, "x":[1,{"y":null}]}', ' {"text" : null} ']
    path, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    copy(path, target, 1)
    heads = [line.rstrip().removesuffix("}").rstrip() for line in lines]
    assert target.read_text().splitlines() == [f'{head}, "label": "positive"}}' for head in heads]


def test_numbers_of_jsonl_keep_their_digits_in_csv(tmp_path):
    path, target = tmp_path / "in.jsonl", tmp_path / "out.csv"
    path.write_text('{"text":"a","n":1.10,"m":true,"l":[1.5,"x"],"o":null}\n', encoding="utf-8")
    copy(path, target, 1)
    assert read_file(target) == [
        {"text": "a", "n": "1.10", "m": "true", "l": '[1.5, "x"]', "o": "", "label": "positive"}
    ]


@given(st.lists(TEXTS, max_size=20))
def test_the_formula_rule_can_be_undone_and_leaves_nothing_to_run(texts):
    column = pa.array(texts, pa.string())
    escaped = escape_formulas(column)
    assert restore_formulas(escaped) == column
    for text, cell in zip(texts, escaped.to_pylist(), strict=True):
        if cell[:1] in tuple("=+-@\t\r\n＝＋－＠"):
            assert cell == text
            float(cell.replace(",", ".").replace(".", "", max(0, cell.count(".") + cell.count(",") - 1)))


@pytest.mark.parametrize("cell, escaped", [("=1+1", "'=1+1"), ("'=1", "''=1"), ("-5", "-5"), ("+1.000,5", "+1.000,5"),
                                           ("-", "'-"), ("'a", "'a"), ("\tx", "'\tx"), ("＝1", "'＝1")])  # fmt: skip
def test_the_formula_rule_in_examples(cell, escaped):
    assert escape_formulas(pa.array([cell])).to_pylist() == [escaped]


@pytest.mark.parametrize("first_line, columns, text_column, n_rows", [
    ("enak\tpositive", ["text", "gold"], "text", 2),
    ("enak", ["text"], "text", 2),
    ("id\tUlasan\tlabel", ["id", "Ulasan", "label"], "Ulasan", 1),
])  # fmt: skip
def test_tsv_with_and_without_header(tmp_path, first_line, columns, text_column, n_rows):
    path = tmp_path / "a.tsv"
    path.write_text(f"{first_line}\n" + "\t".join("x" * len(columns)) + "\n", encoding="utf-8")
    source = open_source(path)
    assert (source.schema.names, source.text_column) == (columns, text_column)
    assert sum(window.n_read for window in source.windows(10)) == n_rows


def test_tsv_of_other_labels_has_no_header_if_one_says_so(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("enak\tpositif\nkotor\tnegatif\n", encoding="utf-8")
    assert [w.texts.to_pylist() for w in open_source(path, text_column="text").windows(9)] == [["enak", "kotor"]]


@pytest.mark.parametrize("header, chosen", [("id,review,date", "review"), ("a", "a"), ("Teks,judul", "Teks")])
def test_the_only_sensible_column_is_taken(tmp_path, header, chosen):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n", encoding="utf-8")
    assert open_source(path).text_column == chosen


def test_a_first_line_that_may_be_a_text_is_pointed_out(tmp_path, caplog):
    for name, content, is_said in (
        ("a.csv", "bagus sekali\njelek\n", True),
        ("b.csv", "ulasan\njelek\n", False),
        ("c.csv", "a,ulasan\n1,x\n", False),
    ):  # fmt: skip
        caplog.clear()
        (tmp_path / name).write_text(content)
        open_source(tmp_path / name)
        assert ("'bagus sekali', is taken for the name of the column. If it is a text" in caplog.text) is is_said
    caplog.clear()
    assert open_source(tmp_path / "a.csv", text_column="bagus sekali").text_column == "bagus sekali"
    assert not caplog.text


def test_one_column_may_have_any_name_where_it_is_no_header_of_csv_or_is_named(tmp_path):
    pq.write_table(pa.table({"isi|ulasan": ["enak"]}), tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").text_column == "isi|ulasan"
    (tmp_path / "a.jsonl").write_text('{"isi; ulasan": "enak"}\n')
    assert open_source(tmp_path / "a.jsonl").text_column == "isi; ulasan"
    (tmp_path / "a.csv").write_text('"Apa pendapat Anda? (a; b)"\nenak\n')
    assert open_source(tmp_path / "a.csv", text_column="Apa pendapat Anda? (a; b)").schema.names


@pytest.mark.parametrize("name, content, options, message", [
    ("a.csv", b"id,judul\n1,x\n", {}, "which column holds the texts.*The columns are: 'id', 'judul'"),
    ("a.csv", b"text,review\n1,x\n", {}, "which column holds the texts"),
    ("a.csv", b"id;text;n\n1;x;2\n", {}, "separated by ';'. Save them with commas"),
    ("a.csv", b"\nid,text\n1,x\n", {}, "a.csv:1: the line that should name the columns is blank"),
    ("a.csv", b"text,text\n1,x\n", {}, "which column holds the texts"),
    ("a.csv", b"text,a,a\n1,x,y\n", {"output_format": "jsonl"}, "two columns are named 'a', which jsonl cannot hold"),
    ("a.csv", b"id,text\n1,x\n", {"text_column": "teks"}, "no column named 'teks'. The columns are: 'id', 'text'"),
    ("a.csv", b"text,label\nx,y\n", {"reserved": frozenset(["label"])}, "column label already.*--prefix smsa_"),
    ("a.jsonl", b'{"text":"x","label":1}\n', {"reserved": frozenset(["label"])}, "column label already"),
    ("a.tsv", b"a\tb\tc\n", {}, "none of 'a', 'b', 'c' is a known name for a text column"),
    ("a.tsv", b"no\tulasan_pembeli\n1\tx\n", {}, "none of 'no', 'ulasan_pembeli' is a known name"),
    ("a.parquet", b"text\nx\n", {}, "a.parquet cannot be read"),
    ("a.csv.gz", b"text\nx\n", {}, "a.csv.gz cannot be read"),
    ("a.jsonl.zst", b"text\nx\n", {}, "a.jsonl.zst cannot be read"),
    ("a.csv", b"te\xffxt\nx\n", {}, "not valid UTF-8. What is not UTF-8 may be Windows-1252.*encoding='cp1252'"),
    ("a.csv", "text,n\nx,1\n".encode("utf-16"), {}, "a.csv is in UTF-16, not UTF-8: .*encoding='utf-16'"),
    ("a.tsv", b'text\tn\na\t1\n"b\nc"\t2\n', {}, "a.tsv:3: a quote that is not closed; found '\"b'.*save it as CSV"),
    ("a.tsv", b'text\tn\na\t1\n"\n', {}, "a.tsv:3: a quote that is not closed"),
    ("a.xlsx", b"PK", {}, "the suffix must be one of .*pd.read_excel"),
])  # fmt: skip
def test_a_file_that_cannot_be_understood_is_refused_by_name(tmp_path, name, content, options, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(open_source(path, **{"output_format": "jsonl" if "jsonl" in name else "csv"} | options).windows(9))


def test_a_number_is_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"text": [1, 2], "x": ["a", "b"]}), path)
    for text_column in ("text", None):
        with pytest.raises(ValueError, match="'text' does not hold text"):
            open_source(path, text_column=text_column)
    assert open_source(path, text_column="x").text_column == "x"


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
    windows = list(open_source(path, "jsonl").windows(n_rows))
    (bad,) = [bad for window in windows for bad in window.bad_rows]
    assert (bad[0], bad[1].line) == (1, line)
    assert reason in bad[1].reason
    assert [n for window in windows for n in window.numbers] == [0, 2]
    assert sum(window.n_read for window in windows) == 3
    assert [str(text)[0] for window in windows for text in window.texts] == ["a", "c"]


def test_tsv_cannot_hold_a_tab_or_a_line_break(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,a\n2,"b\tc"\n"3\n",d\n4,e\n5,"f\rg"\n')
    (window,) = open_source(path, "tsv").windows(9)
    assert [(number, bad.value) for number, bad in window.bad_rows] == [
        (1, {"id": "2", "text": "b\tc"}), (2, {"id": "3\n", "text": "d"}), (4, {"id": "5", "text": "f\rg"}),
    ]  # fmt: skip
    assert window.texts.to_pylist() == ["a", "e"]


@pytest.mark.parametrize("content", [b'text\na\n"b\nc\n', b'text\na\n"b"x\nc\n'])
def test_where_csv_ends_to_be_csv_nothing_more_is_read(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.csv:3: not valid CSV from here on"):
        list(open_source(path).windows(9))


def test_a_truncated_gzip_is_not_a_short_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    write_file(path, [{"text": str(i) * 50} for i in range(1000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="a.csv.gz cannot be read"):
        list(open_source(path).windows(9))


@pytest.mark.parametrize("head", ["{}", "[]", '{"text":1,"id":"x"}', '{"id":"x"}'])
@pytest.mark.parametrize("text_column", [None, "text"])
def test_an_odd_first_line_of_jsonl_decides_nothing(tmp_path, head, text_column):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{head}\n{{"id":"1","text":"a"}}\n{{"id":"2","text":"b"}}\n', encoding="utf-8")
    for output_format in ("jsonl", "csv"):
        (window,) = open_source(path, output_format, text_column=text_column).windows(9)
        assert window.texts.to_pylist() == ["a", "b"]
        assert [number for number, _ in window.bad_rows] == [0]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_what_is_nested_keeps_to_the_rules_too(tmp_path, suffix):
    kind = pa.struct([("x", pa.list_(pa.float64())), ("raw", pa.binary()), ("day", pa.date32())])
    value = {"x": [1.5, float("nan"), float("-inf")], "raw": b"ab\xff", "day": datetime.date(2026, 11, 22)}
    pa.parquet.write_table(pa.table({"text": ["enak"], "s": pa.array([value], kind)}), tmp_path / "a.parquet")
    (window,) = open_source(tmp_path / "a.parquet", suffix).windows(9)
    target = tmp_path / f"out.{suffix}"
    rows = render_rows(suffix, window.table, pa.table({"label": ["positive"]}))
    target.write_bytes(render_header(suffix, [*window.table.column_names, "label"]) + rows)
    (row,) = read_file(target)
    found = row["s"] if suffix == "jsonl" else json.loads(row["s"])
    assert found == {"x": [1.5, None, None], "raw": "YWL/", "day": "2026-11-22"}


def test_parquet_of_every_type_goes_to_text_by_one_rule(tmp_path):
    columns = {
        "n": pa.array([1, None]), "x": pa.array([1.5, float("nan")]), "b": pa.array([True, None]),
        "l": pa.array([[1, 2], None]), "s": pa.array([{"a": "x"}, None]), "raw": pa.array([b"ab\xff", None]),
        "day": pa.array([datetime.date(2026, 11, 22), None]), "d": pa.array([decimal.Decimal("1.10"), None]),
        "at": pa.array([datetime.datetime(2026, 11, 22, 1, 2, 3), None]), "none": pa.nulls(2),
        "cat": pa.array(["k", None]).dictionary_encode(), "text": pa.array(["enak", None]),
    }  # fmt: skip
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table(columns), path, row_group_size=1)
    expected = {"l": "[1, 2]", "s": '{"a": "x"}', "raw": "YWL/", "day": "2026-11-22", "d": "1.10",
                "at": "2026-11-22 01:02:03.000000", "none": "", "cat": "k", "text": "enak"}  # fmt: skip
    for suffix, first, second in (
        ("csv", {"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"}),
        ("tsv", {"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"}),
        ("jsonl", {"n": 1, "x": 1.5, "b": True, "l": [1, 2], "s": {"a": "x"}, "none": None}, {}),
    ):
        target = tmp_path / f"out.{suffix}"
        (window,) = open_source(path, suffix).windows(9)
        rows = render_rows(suffix, window.table, pa.table({"label": ["positive"] * 2}))
        target.write_bytes(render_header(suffix, [*window.table.column_names, "label"]) + rows)
        nothing = dict.fromkeys(columns, None if suffix == "jsonl" else "")
        assert read_file(target) == [expected | first | {"label": "positive"}, nothing | second | {"label": "positive"}]
        assert "NaN" not in target.read_text()


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.parquet.gz"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="suffix must be one of|compressed inside"):
        find_layout(tmp_path / name, INPUT_FORMATS)
