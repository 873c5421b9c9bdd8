"""Files in, files out: nothing lost, nothing doubled, nothing predicted twice, and never the shards of another job.

What has a type keeps its value, and a spreadsheet finds nothing to run.
"""

import csv
import datetime
import decimal
import json
import os
import re
import sys
import zipfile
from threading import Timer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_model, read_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import ADDED, HOSTILE, make_classifier, read_file, write_file, write_workbook

from smsa import predict_files
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.inference import job as job_module
from smsa.inference.job import find_inputs
from smsa.inference.writers import escape_formulas, restore_formulas

ENGINE = ["precision", "backend", "chunk_rows"]
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=20) | st.text(alphabet="=+-@'\"\t\r\n,;1\0 \\x", max_size=6)
FORMATS = ["csv", "csv.gz", "jsonl", "tsv", "jsonl.zst", "parquet"]


def predict(classifier, path, target, **options) -> dict:
    (summary,) = predict_files(classifier, path, target, **options)
    return summary


def rows_of(n):
    return [{"id": f"{i:03}", "text": HOSTILE[i % len(HOSTILE)]} for i in range(n)]


@settings(max_examples=85, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), chunk_rows=st.integers(1, 5))
def test_every_cell_comes_back_and_every_text_is_labelled(classifier, tmp_path_factory, data, chunk_rows):
    suffix, target_suffix = data.draw(st.sampled_from([*FORMATS, "json"])), data.draw(st.sampled_from(FORMATS))
    texts = TEXTS.filter(lambda text: not set(text) & set("\t\r\n")) if "tsv" in suffix + target_suffix else TEXTS
    texts = texts | st.none() if suffix == "parquet" and target_suffix[:3] in ("par", "jso") else texts
    rows = data.draw(st.lists(st.fixed_dictionaries({"id": texts, "text": texts}), min_size=1, max_size=9))
    folder = tmp_path_factory.mktemp("formats")
    path, target = folder / f"in.{suffix}", folder / f"out.{target_suffix}"
    write_file(path, rows)
    classifier.engine.chunk_rows = chunk_rows
    summary = predict(classifier, path, target)
    predicted = read_file(target)
    assert target_suffix != "parquet" or pq.ParquetFile(target).num_row_groups == 1  # each costs who reads it
    assert [{key: row[key] for key in ("id", "text")} for row in predicted] == rows
    assert list(predicted[0]) == [*rows[0], *ADDED]
    answers = classifier([row["text"] for row in rows])
    for row, answer in zip(predicted, answers, strict=True):
        assert (row["label"] or None, row["empty"] in (True, "true")) == (answer["label"], answer["empty"])
        assert float(row["score"] or -1) == pytest.approx(answer["score"] or -1, abs=1e-6)
    n_empty = sum(answer["empty"] for answer in answers)
    assert (summary["read"], summary["empty"], summary["rejected"]) == (len(rows), n_empty, 0)
    assert summary["predicted"] == sum(summary["labels"].values()) == len(rows) - n_empty
    assert read_json(folder / f"{target.name}.summary.json") == summary
    assert {file.name for file in folder.iterdir()} == {path.name, target.name, f"{target.name}.summary.json"}


@pytest.mark.parametrize("name, content", [("a.csv", b""), ("a.jsonl", b""), ("a.txt", b""), ("a.csv", b"id,text\n")])
def test_a_file_without_rows_gives_a_valid_output_and_is_said_to_have_none(classifier, tmp_path, name, content, caplog):
    (tmp_path / name).write_bytes(content)
    for target in (tmp_path / "o.csv", tmp_path / "o.parquet"):
        assert predict(classifier, tmp_path / name, target)["read"] == 0
        assert read_file(target) == []
    columns = ["id", "text"] if content else ["text"] * (name == "a.txt")
    assert pq.read_schema(tmp_path / "o.parquet").names == [*columns, *ADDED]
    assert f"{name} has no rows." in caplog.text


def test_lines_of_jsonl_stay_as_they_were_to_the_byte_and_numbers_keep_their_digits_in_csv(classifier, tmp_path):
    lines = ['{"text":"a", "n":1.10, "m":true, "x":[1.5,{"y":null}], "o":null}', ' {"text" : null} ']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    predict_files(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", labels_only=True)
    heads = [line.rstrip().removesuffix("}").rstrip() for line in lines]
    labels = [json.dumps(answer["label"]) for answer in classifier(["a", None])]
    expected = [f'{head}, "label": {label}}}' for head, label in zip(heads, labels, strict=True)]
    assert (tmp_path / "out.jsonl").read_text().splitlines() == expected
    predict_files(classifier, tmp_path / "in.jsonl", tmp_path / "out.csv")
    expected = {"text": "a", "n": "1.10", "m": "true", "x": '[1.5, {"y": null}]', "o": ""}
    assert read_file(tmp_path / "out.csv")[0].items() >= expected.items()


def test_parquet_of_every_type_stays_in_parquet_and_goes_to_text_by_one_rule(classifier, tmp_path):
    kind = pa.struct([("x", pa.list_(pa.float64())), ("raw", pa.binary()), ("day", pa.date32())])
    day = datetime.date(2026, 11, 22)
    nested = {"x": [1.5, float("nan"), float("-inf")], "raw": b"ab\xff", "day": day}
    columns = {
        "n": pa.array([1, None]), "x": pa.array([1.5, float("nan")]), "b": pa.array([True, None]),
        "l": pa.array([[1, 2], None]), "s": pa.array([nested, None], kind), "raw": pa.array([b"ab", None]),
        "day": pa.array([day, None]), "d": pa.array([decimal.Decimal("1.10"), None]),
        "at": pa.array([datetime.datetime(2026, 11, 22, 1, 2, 3), None]), "none": pa.nulls(2),
        "cat": pa.array(["k", None]).dictionary_encode(), "text": pa.array(["enak", None]),
    }  # fmt: skip
    table = pa.table(columns, metadata={"who": "me"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    predict(classifier, tmp_path / "a.parquet", tmp_path / "out.parquet")
    predicted = pq.read_table(tmp_path / "out.parquet")
    kept = predicted.select(list(columns))
    assert kept.schema.equals(table.schema) and repr(kept.to_pylist()) == repr(table.to_pylist())  # NaN is not NaN
    assert predicted.schema.metadata[b"who"] == b"me" and predicted["empty"].to_pylist() == [False, True]
    plain = {"x": [1.5, None, None], "raw": "YWL/", "day": "2026-11-22"}
    expected = {"l": "[1, 2]", "s": json.dumps(plain), "raw": "YWI=", "day": "2026-11-22", "d": "1.10",
                "at": "2026-11-22 01:02:03.000000", "none": "", "cat": "k", "text": "enak"}  # fmt: skip
    as_text = ({"n": "1", "x": "1.5", "b": "true"}, {"x": "nan"})
    as_json = ({"n": 1, "x": 1.5, "b": True, "l": [1, 2], "s": plain, "none": None}, {})
    for suffix, (first, second) in {"csv": as_text, "tsv": as_text, "jsonl": as_json}.items():
        predict_files(classifier, tmp_path / "a.parquet", tmp_path / f"out.{suffix}")
        rows = [{name: row[name] for name in columns} for row in read_file(tmp_path / f"out.{suffix}")]
        assert rows == [expected | first, dict.fromkeys(columns, None if suffix == "jsonl" else "") | second]
        assert "NaN" not in (tmp_path / f"out.{suffix}").read_text()


def test_a_folder_of_mixed_files_becomes_a_folder(classifier, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.jsonl.zst", "c.parquet", "d.txt"):
        write_file(tmp_path / "in" / name, [{"text": "enak"}, {"text": "kotor"}])
    (tmp_path / "in" / "notes.docx").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "in" / "e.csv.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.csv", "e.csv")
    summaries = predict_files(lambda: classifier, "~/in", "~/out")
    assert "not read, because of their suffixes: " in caplog.text and "notes.docx" in caplog.text
    for name, summary in zip(("a.csv", "b.jsonl.zst", "c.parquet", "d.csv", "e.csv"), summaries, strict=True):
        assert [row["text"] for row in read_file(tmp_path / "out" / name)] == ["enak", "kotor"]
        assert read_json(tmp_path / "out" / f"{name}.summary.json") == summary


@pytest.fixture
def tree(tmp_path):
    """A folder with inputs of several kinds."""
    (tmp_path / "in").mkdir()
    for name in ("in/b.csv", "in/a.csv", "in/a.jsonl", "in/.hidden.csv", "in/~$a.csv", "a.csv", "bare"):
        (tmp_path / name).write_text("text\n")
    (tmp_path / "tab.csv").write_text('text,"a\tb"\nb,1\n')
    (tmp_path / "long.csv").write_text("text\n" + "enak " * 7000 + "\nenak\n")
    (tmp_path / "bad.csv").write_text("text,n\nenak,1,2\n")
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "torn.csv").write_text("id,text\n" + "1,a\n" * 20 + "2\n" * 30)
    (tmp_path / "in2" / "first.csv").write_text("id,text\n1,a\n")
    pq.write_table(pa.table({"id": [1], "text": ["c"]}), tmp_path / "c.parquet")
    write_file(tmp_path / "c.csv", [{"id": "1", "text": "c"}])
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path


@pytest.mark.parametrize("names, output, options, message", [
    (["a.csv"], "out.pdf", {}, "out.pdf: the suffix must be one of .csv"),
    (["a.csv"], "out.csv.zip", {}, "output cannot be compressed with .zip: put .gz or .zst behind the suffix"),
    (["-", "a.csv"], "out.csv", {}, "--input - reads stdin: give no other input"),
    (["in"], "in", {}, "in does not exist, or has no file of a known format besides the output's"),
    (["link.csv", "a.csv"], "out.csv", {}, "is named twice"),
    (["a.csv", "in/a.csv"], "out", {}, "a.csv and in/a.csv would both go to .*: predict them separately"),
    (["pipe.csv"], "out.csv", {}, "send a pipe to stdin"),
    (["a.csv"], f"{'é' * 120}.csv", {}, "its name has more than 241 bytes: name a shorter file"),
    (["a.csv"], "bare", {}, "bare exists, but is no folder and has no suffix: .*or - for stdout"),
    (["a.csv"], "in/../a.csv", {}, "a.csv is both an input and the output"),
    (["a.csv"], "", {}, "name an input and an output"),
    (["s3://bucket/*.csv"], "out.csv", {}, "need scripts/predict.py with --engine ray"),
    (["a.csv"], "s3://bucket/out.csv", {}, "need scripts/predict.py with --engine ray"),
    (["a.csv"], "out.csv", {"engine": "ray"}, "need scripts/predict.py with --engine ray"),
    (["a.csv"], "out.csv", {"ray_address": "auto"}, "need scripts/predict.py with --engine ray"),
    (["-"], "out.csv", {}, "stdin or stdout is closed"),
    (["a.csv"], "-", {}, "stdin or stdout is closed"),
    (["a.csv"], "-", {"on_bad_row": "skip"}, "--on_bad_row skip .*name an output file"),
    (["a.csv"], "out.csv", {"on_bad_row": "Skip"}, "'Skip' is not one of strict, skip"),
    (["bad.csv"], "out.csv", {"on_bad_row": "skip"}, "No row is left. Nothing has been written."),
    (["in2"], "out", {}, r"30 bad row\(s\). .*\n.*torn.csv:22: 1 field.*\n(.*\n){19}  ... and 10 more$"),
    (["a.csv"], "out.csv", {"format": "submission", "explain": True}, "has no column for --explain"),
    (["tab.csv"], "out.tsv", {}, "holds a tab or a line break, which TSV cannot hold"),
    (["long.csv"], "out.xlsx", {}, "long.csv:2: 'text' holds more than 32,767 characters"),
    (["c.csv", "c.parquet"], "out.parquet", {},
     r"of other types \(id: int64, text: string; id: string, text: string\)"),
])  # fmt: skip
def test_a_refusal_comes_before_anything_is_written(classifier, tree, monkeypatch, names, output, options, message):
    monkeypatch.chdir(tree)
    if "closed" in message:  # None is what Python has in place of a closed one
        monkeypatch.setattr(sys, "stdin" if "-" in names else "stdout", None)
    before, loaded = sorted(tree.rglob("*")), []
    with pytest.raises((UserError, OSError), match=message):
        predict_files(lambda: loaded.append(names) or classifier, names, output, **options)
    assert sorted(tree.rglob("*")) == before
    assert loaded in ([], [["tab.csv"]])  # whose own names could do, if those of the model were not added


def test_a_folder_or_glob_finds_nothing_that_belongs_to_the_output_or_lies_in_it(tree):
    beside = ("in/p.csv.summary.json", "in/p.csv.rejects.jsonl")  # an earlier output
    for name in (*beside, "out.csv", "out.csv.shards/c.csv", "out.csv.rejects.jsonl", "out/a.csv"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()

    def found(*names, output):
        files = find_inputs([str(tree / name) for name in names], tree / output)
        return [str(file.relative_to(tree)) for file in files]

    assert found("in", output="in/a.jsonl") == ["in/a.csv", "in/b.csv"]
    assert found(*beside, output="out") == [*beside]
    assert found("a.csv", "*/?.*", output="out") == [
        "a.csv", "in/a.csv", "in/a.jsonl", "in/b.csv", "out.csv.shards/c.csv"
    ]  # fmt: skip
    assert found("[ao]*.csv*", "*/?.csv", output="out.csv") == ["a.csv", "in/a.csv", "in/b.csv", "out/a.csv"]


def test_submission_is_the_benchmarks_counts_over_all_files_and_quotes_a_label_with_a_comma(tokenizer, tmp_path):
    classifier = make_classifier(make_model(("very good, yes", "so so", "bad")), tokenizer)
    classifier.engine.forward = lambda ids, mask: torch.eye(3)[ids[:, 1] % 3]  # a label by the first word
    for name, text in (("a.csv", "murah"), ("b.csv", "enak")):
        (tmp_path / name).write_text("text,label\n" + f"{text},x\n" * 10 + "2,x,y\n,x\nkotor,x\n")
    options = {"format": "submission", "on_bad_row": "skip"}
    predict(classifier, iter([tmp_path / "a.csv", str(tmp_path / "b.csv")]), str(tmp_path / "out.csv"), **options)
    assert [(row["line"], row["row"]) for row in read_rejects(tmp_path / "out.csv")] == [(12, 10), (12, 23)]
    assert list(csv.reader((tmp_path / "out.csv").read_text().splitlines())) == [["index", "label"], *(
        [str(first + i), label] for first, found in ((0, "very good, yes"), (13, "bad"))
        for i, label in enumerate([found] * 10 + [None, "", "so so"]) if label is not None
    )]  # fmt: skip


@pytest.mark.parametrize("names, options, added", [
    (["Text", "Label"], {}, ["smsa_label"]),
    (["text", "p_label"], {"prefix": "p_"}, ["smsa_p_label"]),
    (["text", "smsa_label", "label"], {}, ["smsa_smsa_label"]),
    (["text", "n"], {"prefix": "my_"}, ["my_label"]),
])  # fmt: skip
def test_added_names_are_none_of_the_input(classifier, tmp_path, caplog, names, options, added):
    write_file(tmp_path / "in.csv", [dict(zip(names, ("enak", "x", "y"), strict=False))])
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv", labels_only=True, **options)
    assert list(read_file(tmp_path / "out.csv")[0]) == names + added
    assert ("added names begin with" in caplog.text) == (added[0].startswith("smsa_"))
    (tmp_path / "late.jsonl").write_text('{"text": "a"}\n' * 1000 + json.dumps({"text": "a", added[0]: 1}))
    options = {"labels_only": True, "prefix": added[0][:-5]}
    job = predict(classifier, tmp_path / "late.jsonl", tmp_path / "out.jsonl", **options)["job"]
    assert job["columns"] == sorted(["text", added[0]])
    rows = read_file(tmp_path / "out.jsonl")
    assert f"smsa_{added[0]}" in rows[0] and rows[-1][added[0]] == 1


def test_a_workbook_runs_no_cell_and_csv_is_escaped_where_asked_for(classifier, tmp_path):
    texts = ["=1+1", "@user hai", "+62 812", "-5", "https://a.b", "'=1", "+1.000,5", "\x01", "_x000D_", "5"]
    write_file(tmp_path / "in.csv", [{"text": text} for text in texts])
    for name in ("out.xlsx", "escaped.csv"):
        predict(classifier, tmp_path / "in.csv", tmp_path / name, escape_formulas=name == "escaped.csv")
    (chunk,) = Source(tmp_path / "out.xlsx").chunks(99)
    assert chunk.texts.to_pylist() == texts
    assert chunk.table.column_names == ["text", *ADDED] and pa.types.is_floating(chunk.table["score"].type)
    escaped = ["'=1+1", "'@user hai", "'+62 812", "-5", "https://a.b", "''=1", *texts[6:]]
    assert [row["text"] for row in read_file(tmp_path / "escaped.csv")] == escaped


@settings(deadline=None)
@given(st.lists(st.text(max_size=20) | st.text(alphabet="=+-@'\t\r\n,.1e x＝", max_size=6), max_size=20))
def test_the_formula_rule_can_be_undone_and_leaves_nothing_to_run(texts):
    column = pa.array(texts, pa.string())
    escaped = escape_formulas(column)
    assert restore_formulas(escaped) == column
    for text, cell in zip(texts, escaped.to_pylist(), strict=True):
        if cell[:1] in tuple("=+-@\t\r\n＝＋－＠"):
            assert cell == text
            float(cell.replace(",", ".").replace(".", "", max(0, cell.count(".") + cell.count(",") - 1)))


def test_a_workbook_comes_back_as_one_with_its_types(classifier, tmp_path):
    rows = [["No", "Ulasan", "Tanggal"], [1, "enak", datetime.datetime(2025, 1, 5, 10)], [2, "x" * 32767, None]]
    write_workbook(tmp_path / "in.xlsx", {"Ringkasan": [["a"], [1]], "Data": rows})
    (tmp_path / "in.json").write_text('[{"text": "enak", "n": 1.50}]')
    predict_files(classifier, [tmp_path / "in.xlsx", tmp_path / "in.json"], tmp_path / "out")
    (chunk,) = Source(tmp_path / "out" / "in.xlsx").chunks(9)
    assert [list(row.values())[:3] for row in chunk.table.to_pylist()] == rows[1:]
    assert (tmp_path / "out" / "in.jsonl").read_text().startswith('{"text": "enak", "n": 1.50, "label": ')


@pytest.mark.parametrize("encoding, bom", [("utf-8-sig", True), ("utf-8", False), ("utf-16", True), ("cp1252", False)])
def test_a_byte_order_mark_that_came_is_given_back(classifier, tmp_path, encoding, bom):
    (tmp_path / "in.csv").write_bytes("id;text\n1;café\n".encode(encoding))
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes().startswith(b'\xef\xbb\xbf"id","text"' if bom else b'"id","text"')


def test_bad_rows_can_be_set_apart_and_the_counts_reconcile(classifier, tmp_path):
    path, target = tmp_path / "in.jsonl", tmp_path / "out.tsv"
    path.write_bytes(b'{"text":"enak"}\n{"text":1}\n{"text":""}\n\xff\n' * 5)
    stop(classifier, path, target, on_bad_row="skip")  # what was rejected before is there, too
    summary = predict(classifier, path, target, on_bad_row="skip")
    assert [summary[name] for name in ("read", "predicted", "empty", "rejected")] == [20, 5, 5, 10]
    rejects = read_rejects(target)
    assert [row["line"] for row in rejects] == [*range(2, 21, 2)]
    assert [row["row"] for row in rejects] == [row["line"] - 1 for row in rejects]
    assert rejects[0] == {"file": str(path), "line": 2, "row": 1, "value": {"text": 1},
                          "reason": "the text is not a string"}  # fmt: skip
    assert [row["text"] for row in read_file(target)] == ["enak", ""] * 5
    path.write_text('{"text":"enak"}\n')
    target.unlink()
    predict(classifier, path, target, on_bad_row="skip")
    assert not (tmp_path / "out.tsv.rejects.jsonl").exists()  # those of the earlier job are gone


def read_rejects(output) -> list[dict]:
    return [json.loads(line) for line in output.with_name(f"{output.name}.rejects.jsonl").read_text().splitlines()]


def before_each_shard(monkeypatch, act):
    """Call `act` with the number of rows of each shard, before it is written."""
    write = job_module._Job._write_shard

    def act_and_write(job, chunk, added):
        act(chunk.n_read)
        write(job, chunk, added)

    monkeypatch.setattr(job_module._Job, "_write_shard", act_and_write)


def stop(*args, **options) -> None:
    """Predict, and stop after two shards of eight."""
    steps = iter(range(2))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        before_each_shard(patch, lambda n_rows: next(steps))
        predict(*args, **options)


@pytest.fixture
def stopped(classifier, tmp_path):
    """A job of 30 rows that was stopped after two shards of eight."""
    write_file(tmp_path / "in.csv", rows_of(30))
    stop(classifier, tmp_path / "in.csv", tmp_path / "out.csv")
    return tmp_path


def test_a_stopped_job_resumes_from_its_shards_and_one_too_many_is_noticed(classifier, stopped, monkeypatch):
    path, target, n_predicted = stopped / "in.csv", stopped / "out.csv", []
    before_each_shard(monkeypatch, n_predicted.append)
    first, second = sorted((stopped / "out.csv.shards").glob("part-*.arrow"))
    odd = first.rename(first.with_name("part-000000000000-000000000003.arrow"))
    with pytest.raises(UserError, match="out.csv.shards lacks rows, or has some twice: remove it"):
        predict(classifier, path, target)
    assert n_predicted == [8, 6] and not target.exists()
    odd.unlink()
    whole = second.read_bytes()
    for left in (b"", whole[:-100], whole[:-100] + bytes(100)):  # by a machine that went down
        second.write_bytes(left)
        with pytest.raises(UserError, match=f"{second} is broken .*: remove it, and run the same command again"):
            predict(classifier, path, target)
    second.unlink()
    summary = predict(classifier, path, target)
    assert n_predicted == [8, 6, 8, 8] and summary["read"] == 30
    assert summary["rows_per_second"] * summary["seconds"] == pytest.approx(8, rel=0.2)
    predict(classifier, path, stopped / "whole.csv")
    assert read_file(target) == read_file(stopped / "whole.csv")
    assert not (stopped / "out.csv.shards").exists()


def test_shards_of_another_job_or_that_another_run_is_writing_are_refused(classifier, tokenizer, stopped, monkeypatch):
    path, target, shards = stopped / "in.csv", stopped / "out.csv", stopped / "new.csv.shards"
    with job_module.FileLock(shards / "lock"), pytest.raises(UserError, match="another run is writing"):
        Timer(0.1, job_module.shutil.rmtree, [shards]).start()  # the other run ends
        predict(classifier, path, stopped / "new.csv")
    content, stat = path.read_bytes(), path.stat()

    def refuse(message, classifier=classifier, **options):
        way_out = "Run the earlier command to resume it, choose another --output, or remove that folder"
        reason = f"out.csv.shards holds finished shards of another job: .*{message}.*{way_out}"
        with pytest.raises(UserError, match=re.compile(reason, re.DOTALL)):
            predict(classifier, path, target, **options)

    refuse("labels_only was False, is True", labels_only=True)
    refuse("inputs was {'file': 'in.csv'.*'text', .* is {'file': 'in.csv'.*'id', ", text_column="id")
    refuse("model was", make_classifier(make_model(seed=1), tokenizer))
    for owner, name in ((classifier, "max_length"), *((classifier.engine, name) for name in ENGINE)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, 16)
            refuse(f"{name} was .*, is 16")
    path.write_bytes(content.replace(b"enak", b"anak", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    refuse("inputs was")
    path.write_bytes(content)
    job = stopped / "out.csv.shards" / "job.json"
    description = job.read_text()
    job.write_text(description.replace('"inputs"', '"files"'))
    refuse("inputs was None, is {'file': 'in.csv'")
    job.write_text(description)
    assert predict(make_classifier(make_model(), tokenizer), path, target)["read"] == 30


def test_a_finished_job_has_nothing_to_do_and_another_file_stays(classifier, tmp_path, caplog):
    paths, target = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.csv"
    for path in paths:
        write_file(path, rows_of(10))
    first, before = predict(classifier, paths, target), target.stat().st_mtime_ns
    assert predict(classifier, paths, target) == first
    assert "Nothing to do" in caplog.text and target.stat().st_mtime_ns == before
    summary = (tmp_path / "out.csv.summary.json").read_text()
    for content, summary in ((b"mine", summary), (target.read_bytes(), "{}")):
        target.write_bytes(content)
        (tmp_path / "out.csv.summary.json").write_text(summary)
        with pytest.raises(FileExistsError, match="out.csv exists already: choose another --output, or remove"):
            predict(classifier, paths, target)
        assert target.read_bytes() == content


def test_an_input_that_changes_while_it_is_predicted_is_noticed(classifier, tmp_path, monkeypatch):
    write_file(tmp_path / "in.csv", rows_of(30))
    with monkeypatch.context() as patch:
        before_each_shard(patch, lambda n_rows: os.utime(tmp_path / "in.csv", (n_rows, n_rows)))
        with pytest.raises(UserError, match="in.csv was changed while it was predicted: run the same command again"):
            predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]
