"""Rows -> bytes: what has a type keeps its value, and a spreadsheet finds nothing to run."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_model, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tables import make_classifier, read_file

from smsa import predict_files
from smsa.errors import UserError
from smsa.inference.writers import escape_formulas, require_names, restore_formulas

TEXTS = st.text(max_size=20) | st.text(alphabet="=+-@'\t\r\n,.1e x＝", max_size=6)


@pytest.fixture(scope="module")
def classifier():
    return make_classifier(make_model(), make_tokenizer())


def test_lines_of_jsonl_stay_as_they_were_to_the_byte(classifier, tmp_path):
    lines = ['{"text":"a", "n":1.10, "big":123456789012345678901234567890, "x":[1,{"y":null}]}', ' {"text" : null} ']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    predict_files(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", labels_only=True)
    heads = [line.rstrip().removesuffix("}").rstrip() for line in lines]
    labels = [json.dumps(answer["label"]) for answer in classifier(["a", None])]
    expected = [f'{head}, "label": {label}}}' for head, label in zip(heads, labels, strict=True)]
    assert (tmp_path / "out.jsonl").read_text().splitlines() == expected


def test_numbers_of_jsonl_keep_their_digits_in_csv(classifier, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text":"a","n":1.10,"m":true,"l":[1.5,"x"],"o":null}\n', encoding="utf-8")
    predict_files(classifier, tmp_path / "in.jsonl", tmp_path / "out.csv")
    expected = {"text": "a", "n": "1.10", "m": "true", "l": '[1.5, "x"]', "o": ""}
    assert read_file(tmp_path / "out.csv")[0].items() >= expected.items()


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


def test_parquet_of_every_type_goes_to_text_by_one_rule(classifier, tmp_path):
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
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=1)
    plain = {"x": [1.5, None, None], "raw": "YWL/", "day": "2026-11-22"}
    expected = {"l": "[1, 2]", "s": json.dumps(plain), "raw": "YWL/", "day": "2026-11-22", "d": "1.10",
                "at": "2026-11-22 01:02:03.000000", "none": "", "cat": "k", "text": "enak"}  # fmt: skip
    as_text = ({"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"})
    as_json = ({"n": 1, "x": 1.5, "b": True, "l": [1, 2], "s": plain, "none": None}, {})
    for suffix, (first, second) in {"csv": as_text, "tsv": as_text, "jsonl": as_json}.items():
        predict_files(classifier, tmp_path / "a.parquet", tmp_path / f"out.{suffix}")
        rows = [{name: row[name] for name in columns} for row in read_file(tmp_path / f"out.{suffix}")]
        assert rows == [expected | first, dict.fromkeys(columns, None if suffix == "jsonl" else "") | second]
        assert "NaN" not in (tmp_path / f"out.{suffix}").read_text()


def test_names_that_a_format_cannot_hold_are_refused():
    with pytest.raises(UserError, match="two columns are named 'a', which jsonl cannot hold"):
        require_names("jsonl", ["a", "b", "a"])
    with pytest.raises(UserError, match="holds a tab or a line break, which TSV cannot"):
        require_names("tsv", ["a", "b\tc"])
    require_names("csv", ["a", "b\tc", "a"])
