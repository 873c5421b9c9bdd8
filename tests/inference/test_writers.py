"""Rows -> bytes: what goes in comes back, read by other libraries, and a spreadsheet finds nothing to run."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import HOSTILE, read_file, write_file

from smsa.data.reader import Source, find_layout
from smsa.errors import UserError
from smsa.inference.writers import (
    OUTPUT_FORMATS,
    escape_formulas,
    render_header,
    render_rows,
    restore_formulas,
    to_plain,
)

TEXTS = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=20), st.text(alphabet="=+-@'\"\t\r\n,;1\0 \\x", max_size=6)
)
OF_ONE_LINE = TEXTS.filter(lambda text: not set(text) & set("\t\r\n"))


def copy(path, target, n_rows=9) -> int:
    """Read a file in chunks and write it with one more column, as a job does; return the number of rows."""
    kind, compression = find_layout(target, OUTPUT_FORMATS)
    source = Source(path, keep_lines=kind == "jsonl")
    names = to_plain(source.schema.empty_table(), kind).column_names
    content, n_read = render_header(kind, [*names, "label"]), 0
    for chunk in source.chunks(n_rows):
        assert not chunk.bad_rows
        table = to_plain(chunk.table, kind)
        rows = map(json.loads, table[0].to_pylist()) if source.keep_lines else chunk.table.to_pylist()
        assert chunk.texts.to_pylist() == [row["text"] for row in rows]
        added = pa.table({"label": pa.array(["positive"] * len(chunk.numbers), pa.string())})
        content += render_rows(kind, table, added, source.keep_lines)
        n_read += chunk.n_read
    with pa.output_stream(str(target), compression=compression) as stream:
        stream.write(content)
    return n_read


FORMATS = st.sampled_from(["csv", "csv.gz", "jsonl", "tsv", "jsonl.gz"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=FORMATS | st.just("parquet"), target_suffix=FORMATS, n_rows=st.integers(1, 5))
def test_every_column_and_row_comes_back(tmp_path, data, suffix, target_suffix, n_rows):
    texts = OF_ONE_LINE if "tsv" in suffix + target_suffix else TEXTS
    texts = texts | st.none() if (suffix, target_suffix) == ("parquet", "jsonl") else texts  # null stays null
    rows = data.draw(st.lists(st.fixed_dictionaries({"id": texts, "text": texts, "n": texts}), min_size=1, max_size=9))
    path, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{target_suffix}"
    write_file(path, rows)
    assert copy(path, target, n_rows) == len(rows)
    assert read_file(target) == [row | {"label": "positive"} for row in rows]


def test_lines_of_jsonl_stay_as_they_were_to_the_byte(tmp_path):
    lines = ['{"text":"a", "n":1.10, "big":123456789012345678901234567890, "x":[1,{"y":null}]}', ' {"text" : null} ']
    path, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    copy(path, target, 1)
    heads = [line.rstrip().removesuffix("}").rstrip() for line in lines]
    assert target.read_text().splitlines() == [f'{head}, "label": "positive"}}' for head in heads]


def test_numbers_of_jsonl_keep_their_digits_in_csv(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text":"a","n":1.10,"m":true,"l":[1.5,"x"],"o":null}\n', encoding="utf-8")
    copy(tmp_path / "in.jsonl", tmp_path / "out.csv", 1)
    expected = {"text": "a", "n": "1.10", "m": "true", "l": '[1.5, "x"]', "o": "", "label": "positive"}
    assert read_file(tmp_path / "out.csv") == [expected]


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


def test_parquet_of_every_type_goes_to_text_by_one_rule(tmp_path):
    kind = pa.struct([("x", pa.list_(pa.float64())), ("raw", pa.binary()), ("day", pa.date32())])
    day = datetime.date(2026, 11, 22)
    nested = {"x": [1.5, float("nan"), float("-inf")], "raw": b"ab\xff", "day": day}
    columns = {
        "n": pa.array([1, None]), "x": pa.array([1.5, float("nan")]), "b": pa.array([True, None]),
        "l": pa.array([[1, 2], None]), "s": pa.array([nested, None], kind), "raw": pa.array([b"ab\xff", None]),
        "day": pa.array([day, None]), "d": pa.array([decimal.Decimal("1.10"), None]),
        "at": pa.array([datetime.datetime(2026, 11, 22, 1, 2, 3), None]), "none": pa.nulls(2),
        "cat": pa.array(["k", None]).dictionary_encode(), "text": pa.array(["enak", None]),
    }  # fmt: skip
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=1)
    plain = {"x": [1.5, None, None], "raw": "YWL/", "day": "2026-11-22"}
    expected = {"l": "[1, 2]", "s": json.dumps(plain), "raw": "YWL/", "day": "2026-11-22", "d": "1.10",
                "at": "2026-11-22 01:02:03.000000", "none": "", "cat": "k", "text": "enak"}  # fmt: skip
    for suffix, first, second in (
        ("csv", {"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"}),
        ("tsv", {"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"}),
        ("jsonl", {"n": 1, "x": 1.5, "b": True, "l": [1, 2], "s": plain, "none": None}, {}),
    ):
        target = tmp_path / f"out.{suffix}"
        copy(path, target)
        nothing = dict.fromkeys(columns, None if suffix == "jsonl" else "")
        assert read_file(target) == [expected | first | {"label": "positive"}, nothing | second | {"label": "positive"}]
        assert "NaN" not in target.read_text()


def test_names_that_a_format_cannot_hold_are_refused():
    with pytest.raises(UserError, match="two columns are named 'a', which jsonl cannot hold"):
        render_header("jsonl", ["a", "b", "a"])
    with pytest.raises(UserError, match="holds a tab or a line break, which TSV cannot"):
        render_header("tsv", ["a", "b\tc"])
    assert render_header("csv", ["a", 'b"c', "=d", "a"]) == b'"a","b""c","=d","a"\n'
    assert render_header("csv", ["=d"], escapes=True) == b'"\'=d"\n'
