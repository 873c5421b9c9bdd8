"""Files in, files out: nothing lost, nothing doubled, nothing predicted twice, and never the shards of another job."""

import csv
import datetime
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_model
from tables import ADDED, HOSTILE, make_classifier, read_file, write_file, write_workbook

from smsa import predict_files
from smsa.data.formats import BadRowsError
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.inference import job as job_module
from smsa.inference.job import find_inputs

ENGINE = ["precision", "backend", "chunk_rows"]
FORMATS = ["csv", "jsonl", "parquet", "tsv", "csv.gz", "jsonl.zst", "tsv.zst"]


@pytest.fixture
def classifier(tiny_model, tokenizer):
    return make_classifier(tiny_model, tokenizer)


def predict(classifier, path, target, **options) -> dict:
    (summary,) = predict_files(classifier, path, target, **options)
    return summary


def rows_of(n, suffix=""):
    texts = [text for text in HOSTILE if "tsv" not in suffix or not set(text) & set("\t\r\n")]
    return [{"id": f"{i:03}", "text": texts[i % len(texts)]} for i in range(n)]


@pytest.mark.parametrize("suffix, target_suffix, n_rows", [
    ("csv", "csv", 1), ("csv", "parquet", 30), ("parquet", "parquet", 17), ("parquet", "tsv", 16), ("tsv", "jsonl", 9),
    ("jsonl", "jsonl", 30), ("jsonl", "csv", 8), ("csv.gz", "jsonl.zst", 7), ("tsv.zst", "csv.gz", 24),
])  # fmt: skip
def test_every_format_to_another_at_sizes_around_a_chunk_of_eight(classifier, tmp_path, suffix, target_suffix, n_rows):
    path, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{target_suffix}"
    rows = rows_of(n_rows, suffix + target_suffix)
    write_file(path, rows)
    summary = predict(classifier, path, target)
    predicted = read_file(target)
    assert [{key: row[key] for key in ("id", "text")} for row in predicted] == rows
    assert list(predicted[0]) == ["id", "text", *ADDED]
    empty = [row["empty"] in (True, "true") for row in predicted]
    assert empty == [not row["text"].strip() for row in rows]
    for row, answer in zip(predicted, classifier([row["text"] for row in rows]), strict=True):
        assert (row["label"] or None) == answer["label"]
        assert float(row["score"] or -1) == pytest.approx(answer["score"] or -1, abs=1e-6)
    assert (summary["read"], summary["empty"], summary["rejected"]) == (n_rows, sum(empty), 0)
    assert summary["predicted"] == sum(summary["labels"].values()) == n_rows - sum(empty)
    assert json.loads((tmp_path / f"{target.name}.summary.json").read_text()) == summary
    assert {file.name for file in tmp_path.iterdir()} == {path.name, target.name, f"{target.name}.summary.json"}


@pytest.mark.parametrize("name, content", [
    ("a.csv", b""), ("a.tsv", b""), ("a.jsonl", b""), ("a.txt", b""), ("a.csv", b"id,text\n"),
])  # fmt: skip
def test_a_file_without_rows_gives_a_valid_output_and_is_said_to_have_none(classifier, tmp_path, name, content, caplog):
    (tmp_path / name).write_bytes(content)
    for target in (tmp_path / "o.csv", tmp_path / "o.parquet"):
        assert predict(classifier, tmp_path / name, target)["read"] == 0
        assert read_file(target) == []
    columns = ["id", "text"] if content else ["text"] * (name == "a.txt")
    assert pq.read_schema(tmp_path / "o.parquet").names == [*columns, *ADDED]
    assert f"{name} has no rows." in caplog.text


def test_parquet_keeps_types_and_metadata(classifier, tmp_path):
    table = pa.table({"n": [1, None], "text": pa.array(["a", None]).dictionary_encode(), "l": [[1], [2, 3]]})
    pq.write_table(table.replace_schema_metadata({"who": "me"}), tmp_path / "in.parquet")
    predict(classifier, tmp_path / "in.parquet", tmp_path / "out.parquet")
    predicted = pq.read_table(tmp_path / "out.parquet")
    assert predicted.select(["n", "text", "l"]).equals(table)
    assert predicted.schema.metadata[b"who"] == b"me"
    assert predicted["empty"].to_pylist() == [False, True]


def test_several_files_become_one_and_a_glob_does_not_find_the_output(classifier, tmp_path):
    for name in ("b.csv", "a.csv"):
        write_file(tmp_path / name, [{"id": f"{name}{i}", "text": "enak"} for i in range(11)])
    first = predict(classifier, str(tmp_path / "*.csv"), tmp_path / "out.csv")
    ids = [row["id"] for row in read_file(tmp_path / "out.csv")]
    assert ids == [f"{name}{i}" for name in ("a.csv", "b.csv") for i in range(11)]
    assert predict(classifier, iter([str(tmp_path / "*.csv")]), str(tmp_path / "out.csv")) == first  # finished


def test_files_of_other_columns_do_not_become_one(classifier, tmp_path):
    write_file(tmp_path / "a.csv", [{"id": "1", "text": "a"}])
    write_file(tmp_path / "b.csv", [{"text": "b"}])
    with pytest.raises(UserError, match="b.csv has other columns than .*a.csv, or of other .*make --output a folder"):
        predict_files(classifier, [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.csv")
    pq.write_table(pa.table({"id": [1], "text": ["c"]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"of other types \(id: int64, text: string; id: string, text: string\)"):
        predict_files(classifier, [tmp_path / "a.csv", tmp_path / "c.parquet"], tmp_path / "out.parquet")


def test_a_folder_of_mixed_files_becomes_a_folder(classifier, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "in"
    folder.mkdir()
    for suffix in (*FORMATS, "txt"):
        write_file(folder / f"x-{suffix.replace('.', '-')}.{suffix}", [{"text": "enak"}, {"text": "kotor"}])
    (folder / "notes.docx").write_bytes(b"x")
    summaries = predict_files(classifier, folder, tmp_path / "predicted")
    assert "not read, because of their suffixes: notes.docx" in caplog.text
    outputs = [path for path in sorted((tmp_path / "predicted").iterdir()) if not path.name.endswith(".summary.json")]
    assert [path.name for path in outputs] == sorted(
        f"x-{suffix.replace('.', '-')}.{'csv' if suffix == 'txt' else suffix}" for suffix in (*FORMATS, "txt")
    )
    assert [[row["text"] for row in read_file(path)] for path in outputs] == [["enak", "kotor"]] * len(outputs)
    assert [summary["read"] for summary in summaries] == [2] * len(outputs)


@pytest.fixture
def tree(tmp_path):
    """A folder with inputs of several kinds."""
    (tmp_path / "in").mkdir()
    for name in ("in/b.csv", "in/a.csv", "in/a.jsonl", "in/.hidden.csv", "a.csv"):
        (tmp_path / name).write_text("text\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path


@pytest.mark.parametrize("names, output, message", [
    (["nothing.csv"], "out.csv", "nothing.csv does not exist"),
    (["in"], "in/out.csv", "would be read as input"),
    (["a.csv", "*.csv"], "out.csv", "is named twice"),
    (["link.csv", "a.csv"], "out.csv", "is named twice"),
    (["pipe.csv"], "out.csv", "is a pipe.*give -"),
    (["in/a.*"], "in", "matches only what belongs to the output .*: write elsewhere"),
    (["a.csv"], "/dev/null", "/dev/null is a pipe or a device: give - for stdout"),
    (["a.csv"], "in/../a.csv", "a.csv is an input and the output, too"),
    (["a.csv"], ".", "a.csv is an input and the output, too"),
    (["a.csv", "in/a.csv"], "o", "would both go to"),
    ([], "d.csv", "name an input and an output"),
    (["a.csv"], "", "name an input and an output"),
])  # fmt: skip
def test_names_that_lead_nowhere_or_in_circles_are_refused(classifier, tree, monkeypatch, names, output, message):
    monkeypatch.chdir(tree)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        predict_files(classifier, names, output)


def test_a_glob_finds_nothing_that_belongs_to_the_output_or_lies_in_it(tree):
    files = ["deep/b.csv", "out.csv", "out.csv.shards/c.csv", "out.csv.rejects.jsonl", "out/a.csv"]
    for name in files:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tree / "link.csv").unlink()

    def found(*names, output):
        files = find_inputs([str(tree / name) for name in names], tree / output)
        return [str(file.relative_to(tree)) for file in files]

    assert found("in", output="out.csv") == ["in/a.csv", "in/a.jsonl", "in/b.csv"]
    assert found("a.csv", "*/*", output="out") == [
        "a.csv", "deep/b.csv", "in/a.csv", "in/a.jsonl", "in/b.csv", "out.csv.shards/c.csv"
    ]  # fmt: skip
    assert found("*.csv*", "*/?.csv", output="out.csv") == ["a.csv", "deep/b.csv", "in/a.csv", "in/b.csv", "out/a.csv"]


def test_submission_is_the_benchmarks_also_where_a_label_has_a_comma(tokenizer, tmp_path):
    classifier = make_classifier(make_model(("very good, yes", "so so", "bad")), tokenizer)
    texts = ["enak", "kotor", "", "murah"]
    write_file(tmp_path / "in.csv", [{"text": text, "label": "x"} for text in texts])
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv", format="submission")
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    labels = [answer["label"] or "" for answer in classifier(texts)]
    assert rows == [["index", "label"], *([str(i), label] for i, label in enumerate(labels))]


@pytest.mark.parametrize("names, options, added", [
    (["text", "label"], {}, ["smsa_label"]),
    (["Text", "Label"], {}, ["smsa_label"]),
    (["text", "p_label"], {"prefix": "p_"}, ["smsa_p_label"]),
    (["text", "smsa_label", "label"], {}, ["smsa_smsa_label"]),
    (["text", "n"], {"prefix": "my_"}, ["my_label"]),
])  # fmt: skip
def test_added_names_are_none_of_the_input(classifier, tmp_path, caplog, names, options, added):
    caplog.set_level("INFO", "smsa")
    write_file(tmp_path / "in.csv", [dict(zip(names, ("enak", "x", "y"), strict=False))])
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv", labels_only=True, **options)
    assert list(read_file(tmp_path / "out.csv")[0]) == names + added
    assert ("added names begin with" in caplog.text) == (added[0].startswith("smsa_"))


def test_a_key_of_jsonl_that_comes_late_and_is_added_is_named(classifier, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n' * 1000 + '{"text": "a", "score": 1}\n')
    with pytest.raises(
        UserError, match="in.jsonl:1001: prediction adds score, which is a key here: give --prefix smsa_"
    ):
        predict(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    shutil.rmtree(tmp_path / "out.jsonl.shards")
    predict(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", prefix="smsa_")


def test_the_inputs_are_checked_before_a_model_is_loaded(tmp_path):
    def load():
        raise AssertionError("loaded")

    (tmp_path / "in.csv").write_text("text,n\nenak,1,2\n")
    with pytest.raises(BadRowsError, match="1 bad row"):
        predict_files(load, tmp_path / "in.csv", tmp_path / "out.csv")
    with pytest.raises(BadRowsError, match="No row is left. Nothing has been written."):
        predict_files(load, tmp_path / "in.csv", tmp_path / "out.csv", on_bad_row="skip")


def test_cells_come_back_as_they_were_and_a_workbook_runs_none(classifier, tmp_path):
    texts = ["=1+1", "@user hai", "+62 812", "-5", "https://a.b", "'=1", "\x01", "_x000D_", "5"]
    write_file(tmp_path / "in.csv", [{"text": text} for text in texts])
    for name in ("out.csv", "out.xlsx", "escaped.csv"):
        predict(classifier, tmp_path / "in.csv", tmp_path / name, escape_formulas=name == "escaped.csv")
    assert [row["text"] for row in read_file(tmp_path / "out.csv")] == texts
    (chunk,) = Source(tmp_path / "out.xlsx").chunks(99)
    assert chunk.texts.to_pylist() == texts
    assert chunk.table.column_names == ["text", *ADDED] and pa.types.is_floating(chunk.table["score"].type)
    escaped = ["'=1+1", "'@user hai", "'+62 812", "-5", "https://a.b", "''=1", *texts[6:]]
    assert [row["text"] for row in read_file(tmp_path / "escaped.csv")] == escaped


def test_a_workbook_comes_back_as_one_with_its_types(classifier, tmp_path):
    rows = [["No", "Ulasan", "Tanggal"], [1, "enak", datetime.datetime(2025, 1, 5, 10)], [2, "x" * 32767, None]]
    write_workbook(tmp_path / "in.xlsx", {"Ringkasan": [["a"], [1]], "Data": rows})
    (tmp_path / "in.json").write_text('[{"text": "enak", "n": 1.50}]')
    predict_files(classifier, [tmp_path / "in.xlsx", tmp_path / "in.json"], tmp_path / "out")
    (chunk,) = Source(tmp_path / "out" / "in.xlsx").chunks(9)
    assert [list(row.values())[:3] for row in chunk.table.to_pylist()] == rows[1:]
    assert (tmp_path / "out" / "in.jsonl").read_text().startswith('{"text": "enak", "n": 1.50, "label": ')
    (tmp_path / "long.csv").write_text("text\n" + "enak " * 7000 + "\nenak\n")
    with pytest.raises(BadRowsError, match="long.csv:2: 'text' holds more than 32,767 characters"):
        predict(classifier, tmp_path / "long.csv", tmp_path / "long.xlsx")


@pytest.mark.parametrize("encoding, bom", [("utf-8-sig", True), ("utf-8", False), ("utf-16", True), ("cp1252", False)])
def test_a_byte_order_mark_that_came_is_given_back(classifier, tmp_path, encoding, bom):
    (tmp_path / "in.csv").write_bytes("id;text\n1;café\n".encode(encoding))
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes().startswith(b'\xef\xbb\xbf"id","text"' if bom else b'"id","text"')


def test_bad_rows_of_any_file_stop_everything_before_anything_is_written(classifier, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,a\n")
    (tmp_path / "b.csv").write_bytes(b"id,text\n" + b"1,a\n" * 20 + b"2\n" * 30)
    with pytest.raises(BadRowsError, match=r"30 bad row\(s\). .*\n.*b.csv:22: 1 field.*\n(.*\n){19}  ... and 10 more$"):
        predict_files(classifier, str(tmp_path / "*.csv"), tmp_path / "predicted")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_bad_rows_can_be_set_apart_and_the_counts_reconcile(classifier, tmp_path):
    lines = [b'{"text":"enak"}', b'{"text":1}', b'{"text":""}', b"\xff", b'{"text":"kotor"}'] * 5
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    summary = predict(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", on_bad_row="skip")
    assert [summary[name] for name in ("read", "predicted", "empty", "rejected")] == [25, 10, 5, 10]
    rejects = read_rejects(tmp_path / "out.jsonl")
    assert [row["line"] for row in rejects] == [line for i in range(5) for line in (5 * i + 2, 5 * i + 4)]
    assert [row["row"] for row in rejects] == [row["line"] - 1 for row in rejects]
    assert rejects[0] == {
        "file": str(tmp_path / "in.jsonl"), "line": 2, "row": 1, "value": {"text": 1},
        "reason": "the text is not a string",
    }  # fmt: skip
    assert [row["text"] for row in read_file(tmp_path / "out.jsonl")] == ["enak", "", "kotor"] * 5

    (tmp_path / "in.jsonl").write_text('{"text":"enak"}\n')
    (tmp_path / "out.jsonl").unlink()
    predict(classifier, tmp_path / "in.jsonl", tmp_path / "out.jsonl", on_bad_row="skip")
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()  # those of the earlier job are gone


def read_rejects(output) -> list[dict]:
    return [json.loads(line) for line in output.with_name(f"{output.name}.rejects.jsonl").read_text().splitlines()]


def test_tsv_cannot_hold_a_tab_or_a_line_break(classifier, tmp_path):
    (tmp_path / "in.csv").write_bytes(b'id,text\n1,a\n2,"b\tc"\n"3\n",d\n4,e\n5\n6,"f\rg"\n')
    predict(classifier, tmp_path / "in.csv", tmp_path / "out.tsv", on_bad_row="skip")
    assert [(row["line"], row["row"], row["value"]) for row in read_rejects(tmp_path / "out.tsv")] == [
        (3, 1, {"id": "2", "text": "b\tc"}), (4, 2, {"id": "3\n", "text": "d"}), (7, 4, ["5"]),
        (8, 5, {"id": "6", "text": "f\rg"}),
    ]  # fmt: skip
    assert [row["text"] for row in read_file(tmp_path / "out.tsv")] == ["a", "e"]


def test_rows_are_counted_over_all_files(classifier, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"id,text\n" + b"1,enak\n" * 10 + b"2\n" + b"3,kotor\n" * 2)
    inputs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    predict(classifier, inputs, tmp_path / "out.csv", format="submission", on_bad_row="skip")
    assert [(row["line"], row["row"]) for row in read_rejects(tmp_path / "out.csv")] == [(12, 10), (12, 23)]
    indices = [int(row["index"]) for row in read_file(tmp_path / "out.csv")]
    assert indices == [i for i in range(26) if i not in (10, 23)]


class Stopped(Exception):
    """Stands for a kill."""


def before_each_shard(monkeypatch, act):
    """Call `act` with the number of rows of each shard, before it is written."""
    render = job_module._Job._render

    def act_and_render(job, chunk, predictions):
        act(chunk.n_read)
        return render(job, chunk, predictions)

    monkeypatch.setattr(job_module._Job, "_render", act_and_render)


def predict_and_stop(classifier, path, target, n_shards):
    """Begin a job that stops when it has written so many shards."""
    written = []

    def act(n_rows):
        if len(written) == n_shards:
            raise Stopped
        written.append(n_rows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        before_each_shard(patch, act)
        predict(classifier, path, target)


@pytest.mark.parametrize("suffix, n_shards", [("csv.gz", 0), ("jsonl", 1), ("parquet", 3)])
def test_a_stopped_job_resumes_from_its_shards_to_the_same_rows(classifier, tmp_path, monkeypatch, suffix, n_shards):
    path, whole, target = (tmp_path / f"{name}.{suffix}" for name in ("in", "whole", "out"))
    write_file(path, rows_of(30))
    predict(classifier, path, whole)
    predict_and_stop(classifier, path, target, n_shards)
    assert not target.exists()
    assert len(list((tmp_path / f"out.{suffix}.shards").glob("rows-*"))) == n_shards
    n_predicted = []
    before_each_shard(monkeypatch, n_predicted.append)
    summary = predict(classifier, path, target)
    assert sum(n_predicted) == 30 - 8 * n_shards
    assert read_file(target) == read_file(whole)
    assert summary["read"] == 30 and not (tmp_path / f"out.{suffix}.shards").exists()
    assert summary["rows_per_second"] * summary["seconds"] == pytest.approx(sum(n_predicted), rel=0.2)


@pytest.fixture
def stopped(classifier, tmp_path):
    """A job of 30 rows that was stopped after two shards."""
    write_file(tmp_path / "in.csv", rows_of(30))
    predict_and_stop(classifier, tmp_path / "in.csv", tmp_path / "out.csv", 2)
    return tmp_path


def test_shards_of_another_job_are_refused(classifier, stopped, monkeypatch):
    path, target = stopped / "in.csv", stopped / "out.csv"
    content, stat = path.read_bytes(), path.stat()

    def refuse(message, **options):
        with pytest.raises(UserError, match=f"out.csv.shards holds finished shards of another job.*{message}"):
            predict(classifier, path, target, **options)

    refuse("labels_only was False, is True", labels_only=True)
    refuse("prefix was , is x_", prefix="x_")
    refuse("on_bad_row was strict, is skip", on_bad_row="skip")
    refuse("inputs was", text_column="id")
    engine = classifier.engine
    for owner, name in ((classifier, "max_length"), (classifier, "sha256"), *((engine, n) for n in ENGINE)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, 16)
            refuse(f"{name.replace('sha256', 'model')} was .*, is 16")
    path.write_bytes(content.replace(b"enak", b"anak", 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    refuse("inputs was")
    path.write_bytes(content)
    assert predict(classifier, path, target)["read"] == 30


def test_a_shard_that_is_gone_is_predicted_again_and_one_too_many_is_noticed(classifier, stopped):
    first, second = sorted((stopped / "out.csv.shards").glob("rows-*"))
    first.rename(first.with_name("rows-000000000000-000000000003"))
    with pytest.raises(UserError, match="out.csv.shards lacks rows, or has some twice: remove it"):
        predict(classifier, stopped / "in.csv", stopped / "out.csv")
    assert not (stopped / "out.csv").exists()
    (stopped / "out.csv.shards" / "rows-000000000000-000000000003").unlink()
    predict(classifier, stopped / "in.csv", stopped / "out.csv")
    assert [row["id"] for row in read_file(stopped / "out.csv")] == [f"{i:03}" for i in range(30)]


def test_a_finished_job_has_nothing_to_do_and_another_file_stays(classifier, tmp_path, caplog):
    caplog.set_level("INFO")
    path, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write_file(path, rows_of(10))
    first, before = predict(classifier, path, target), target.stat().st_mtime_ns
    assert predict(classifier, path, target) == first
    assert "Nothing to do" in caplog.text and target.stat().st_mtime_ns == before
    summary = (tmp_path / "out.csv.summary.json").read_text()
    for content, summary in [(b"mine", summary), *((target.read_bytes(), s) for s in ("{}", "[]", "", '{"job": 1}'))]:
        target.write_bytes(content)
        (tmp_path / "out.csv.summary.json").write_text(summary)
        with pytest.raises(FileExistsError, match="out.csv exists already"):
            predict(classifier, path, target)
        assert target.read_bytes() == content


def test_two_runs_on_one_output_do_not_meet(classifier, stopped):
    with job_module.FileLock(stopped / "out.csv.shards" / "lock"):
        with pytest.raises(FileExistsError, match="another run is writing"):
            predict(classifier, stopped / "in.csv", stopped / "out.csv")
    assert predict(classifier, stopped / "in.csv", stopped / "out.csv")["read"] == 30


def test_an_input_that_changes_while_it_is_predicted_is_noticed(classifier, tmp_path, monkeypatch):
    write_file(tmp_path / "in.csv", rows_of(30))

    def grow(n_rows):
        with (tmp_path / "in.csv").open("a") as lines:
            lines.write("031,enak\n")

    with monkeypatch.context() as patch:
        before_each_shard(patch, grow)
        with pytest.raises(UserError, match="in.csv was changed while it was predicted: run the same command again"):
            predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]
    assert predict(classifier, tmp_path / "in.csv", tmp_path / "out.csv")["read"] > 30
