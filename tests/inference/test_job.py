"""Files in, one file out: nothing lost, nothing doubled, nothing scored twice, and never the parts of another job."""

import csv
import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_model
from tables import ADDED, HOSTILE, make_classifier, read_file, write_file

from smsa import score_files, score_paths
from smsa.data.rows import BadRowsError
from smsa.inference import job as job_module
from smsa.inference.paths import find_inputs, pair_outputs

FORMATS = ["csv", "csv.gz", "jsonl", "jsonl.zst", "parquet", "tsv", "tsv.zst"]


@pytest.fixture
def classifier(tiny_model, tokenizer):
    return make_classifier(tiny_model, tokenizer)


def rows_of(n, suffix=""):
    texts = [text for text in HOSTILE if "tsv" not in suffix or not set(text) & set("\t\r\n")]
    return [{"id": f"{i:03}", "text": texts[i % len(texts)]} for i in range(n)]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("target_suffix", FORMATS)
def test_every_format_to_every_other(classifier, tmp_path, suffix, target_suffix):
    path, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{target_suffix}"
    rows = rows_of(30, suffix + target_suffix)
    write_file(path, rows)
    summary = score_files(classifier, [path], target)
    scored = read_file(target)
    assert [{key: row[key] for key in ("id", "text")} for row in scored] == rows
    assert list(scored[0]) == ["id", "text", *ADDED]
    empty = [row["empty"] in (True, "true") for row in scored]
    assert empty == [not row["text"].strip() for row in rows]
    expected = classifier([row["text"] for row in rows])
    for row, answer in zip(scored, expected, strict=True):
        assert (row["label"] or None) == answer["label"]
        assert float(row["score"] or -1) == pytest.approx(answer["score"] or -1, abs=1e-6)
    assert (summary["read"], summary["empty"], summary["rejected"]) == (30, sum(empty), 0)
    assert summary["scored"] == sum(summary["labels"].values()) == 30 - sum(empty)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [path.name, target.name, f"{target.name}.summary.json"]
    )


@pytest.mark.parametrize("n_rows", [0, 1, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_sizes_around_every_boundary(classifier, tmp_path, n_rows, suffix):
    path, target = tmp_path / f"in.{suffix}", tmp_path / ("out.parquet" if suffix == "parquet" else "out.csv")
    write_file(path, [{"text": f"enak {i}"} for i in range(max(n_rows, 1))])
    if n_rows == 0:
        empties = {"csv": b"text\n", "jsonl": b"", "txt": b""}
        if suffix == "parquet":
            pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
        else:
            path.write_bytes(empties[suffix])
    assert score_files(classifier, [path], target)["read"] == n_rows
    assert [row["text"] for row in read_file(target)] == [f"enak {i}" for i in range(n_rows)]
    if suffix == "parquet":
        assert pq.read_schema(target).names == ["text", *ADDED]
    else:
        columns = ADDED if suffix == "jsonl" and n_rows == 0 else ["text", *ADDED]
        assert next(csv.reader(target.read_text().splitlines())) == columns


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_file_of_no_bytes_gives_a_valid_output(classifier, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    for target in (tmp_path / "o.csv", tmp_path / "o.parquet", tmp_path / "o.jsonl"):
        assert score_files(classifier, [tmp_path / name], target)["read"] == 0
        assert read_file(target) == []


def test_pandas_reads_the_csv(classifier, tmp_path):
    path = tmp_path / "in.csv"
    write_file(path, rows_of(30))
    score_files(classifier, [path], tmp_path / "out.csv")
    table = pd.read_csv(
        tmp_path / "out.csv", dtype={"text": str, "id": str}, keep_default_na=False, na_values={"score": [""]}
    )
    assert table["score"].dropna().between(1 / 3, 1).all()
    assert table["truncated"].dtype == table["empty"].dtype == bool
    assert table["id"].tolist() == [f"{i:03}" for i in range(30)]


def test_parquet_keeps_types_and_metadata(classifier, tmp_path):
    table = pa.table({"n": [1, None], "text": pa.array(["a", None]).dictionary_encode(), "l": [[1], [2, 3]]})
    pq.write_table(table.replace_schema_metadata({"who": "me"}), tmp_path / "in.parquet")
    score_files(classifier, [tmp_path / "in.parquet"], tmp_path / "out.parquet")
    scored = pq.read_table(tmp_path / "out.parquet")
    assert scored.select(["n", "text", "l"]).equals(table)
    assert scored.schema.metadata[b"who"] == b"me"
    assert scored["empty"].to_pylist() == [False, True]


def test_several_files_become_one(classifier, tmp_path):
    for name in ("b.csv", "a.csv"):
        write_file(tmp_path / name, [{"id": f"{name}{i}", "text": "enak"} for i in range(11)])
    score_paths(classifier, [str(tmp_path / "*.csv")], str(tmp_path / "out.csv"))
    ids = [row["id"] for row in read_file(tmp_path / "out.csv")]
    assert ids == [f"{name}{i}" for name in ("a.csv", "b.csv") for i in range(11)]
    # the glob now matches the output, too, which is not an input
    assert score_paths(classifier, [str(tmp_path / "*.csv")], str(tmp_path / "out.csv"))[0]["read"] == 22


def test_files_of_other_columns_do_not_become_one(classifier, tmp_path):
    write_file(tmp_path / "a.csv", [{"id": "1", "text": "a"}])
    write_file(tmp_path / "b.csv", [{"text": "b"}])
    with pytest.raises(ValueError, match="b.csv has other columns than .*a.csv, or of other .*make --output a folder"):
        score_files(classifier, [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out.csv")
    pq.write_table(pa.table({"id": [1], "text": ["c"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"of other types \(id: int64, text: string; id: string, text: string\)"):
        score_files(classifier, [tmp_path / "a.csv", tmp_path / "c.parquet"], tmp_path / "out.parquet")


def test_a_file_without_rows_is_said_to_have_none(classifier, tmp_path, caplog):
    (tmp_path / "a.csv").write_text("text\n")
    assert score_files(classifier, [tmp_path / "a.csv"], tmp_path / "out.csv")["read"] == 0
    assert "a.csv has no rows." in caplog.text


def test_a_folder_of_mixed_files_becomes_a_folder(classifier, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "in"
    folder.mkdir()
    for suffix in (*FORMATS, "txt"):
        write_file(folder / f"x-{suffix.replace('.', '-')}.{suffix}", [{"text": "enak"}, {"text": "kotor"}])
    (folder / "notes.docx").write_bytes(b"x")
    summaries = score_paths(classifier, [str(folder)], str(tmp_path / "scored"))
    assert "not read, for their suffixes: notes.docx" in caplog.text
    outputs = [path for path in sorted((tmp_path / "scored").iterdir()) if not path.name.endswith(".summary.json")]
    assert [path.name for path in outputs] == sorted(
        f"x-{suffix.replace('.', '-')}.{'csv' if suffix == 'txt' else suffix}" for suffix in (*FORMATS, "txt")
    )
    assert [[row["text"] for row in read_file(path)] for path in outputs] == [["enak", "kotor"]] * len(outputs)
    assert [summary["read"] for summary in summaries] == [2] * len(outputs)


def test_names_that_lead_nowhere_or_in_circles_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("in/a.csv", "in/a.jsonl", "a.csv"):
        (tmp_path / name).write_text("text\n")
    for name in "hcgbfed":
        (tmp_path / "in" / f"{name}.csv").touch()
    found = [file.name for file in find_inputs([str(tmp_path / "in")], tmp_path / "out.csv")]
    assert found == ["a.csv", "a.jsonl", *(f"{name}.csv" for name in "bcdefgh")]
    with pytest.raises(ValueError, match="/dev/null is a pipe or a device: give - for stdout"):
        pair_outputs([tmp_path / "a.csv"], "/dev/null")
    with pytest.raises(FileNotFoundError, match="nothing.csv does not exist"):
        find_inputs([str(tmp_path / "nothing.csv")], tmp_path / "out.csv")
    with pytest.raises(ValueError, match="would be read as input"):
        find_inputs([str(tmp_path / "in")], tmp_path / "in" / "out.csv")
    for output in (tmp_path / "in" / ".." / "a.csv", tmp_path):
        with pytest.raises(ValueError, match="a.csv is an input and the output, too"):
            pair_outputs([tmp_path / "a.csv"], str(output))
    with pytest.raises(ValueError, match="would both go to"):
        pair_outputs([tmp_path / "a.csv", tmp_path / "in" / "a.csv"], str(tmp_path / "o"))
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    for names in (["a.csv", "*.csv"], ["link.csv", "a.csv"]):
        with pytest.raises(ValueError, match="is named twice"):
            find_inputs([str(tmp_path / name) for name in names], tmp_path / "out.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="is a pipe.*give -"):
        find_inputs([str(tmp_path / "pipe.csv")], tmp_path / "out.csv")


def test_submission_is_the_benchmarks(classifier, tmp_path):
    write_file(tmp_path / "in.csv", [{"text": "enak", "label": "x"}, {"text": "kotor", "label": "y"}])
    score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", output_format="submission")
    labels = [answer["label"] for answer in classifier(["enak", "kotor"])]
    assert (tmp_path / "out.csv").read_text() == f"index,label\n0,{labels[0]}\n1,{labels[1]}\n"


def test_fewer_columns_and_other_names(classifier, tmp_path):
    write_file(tmp_path / "in.csv", [{"text": "enak", "label": "x"}])
    with pytest.raises(ValueError, match="--prefix smsa_"):
        score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", prefix="smsa_", labels_only=True)
    assert list(read_file(tmp_path / "out.csv")[0]) == ["text", "label", "smsa_label"]


def test_bad_rows_stop_everything_before_anything_is_written(classifier, tmp_path):
    (tmp_path / "in.csv").write_bytes(b"id,text\n" + b"1,a\n" * 20 + b"2\n" * 30)
    with pytest.raises(BadRowsError, match=r"30 bad row\(s\):\n.*in.csv:22: 1 field.*\n(.*\n){19}  ... and 10 more\n"):
        score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]


def test_bad_rows_can_be_set_apart_and_the_counts_reconcile(classifier, tmp_path):
    lines = [b'{"text":"enak"}', b'{"text":1}', b'{"text":""}', b"\xff", b'{"text":"kotor"}'] * 5
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    summary = score_files(classifier, [tmp_path / "in.jsonl"], tmp_path / "out.jsonl", on_bad_row="skip")
    assert (summary["read"], summary["scored"], summary["empty"], summary["rejected"]) == (25, 10, 5, 10)
    rejects = [json.loads(line) for line in (tmp_path / "out.jsonl.rejects.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rejects] == [line for i in range(5) for line in (5 * i + 2, 5 * i + 4)]
    assert [row["row"] for row in rejects] == [row["line"] - 1 for row in rejects]
    assert rejects[0] == {
        "file": str(tmp_path / "in.jsonl"), "line": 2, "row": 1, "value": {"text": 1},
        "reason": "the text is not a string",
    }  # fmt: skip
    assert [row["text"] for row in read_file(tmp_path / "out.jsonl")] == ["enak", "", "kotor"] * 5
    assert json.loads((tmp_path / "out.jsonl.summary.json").read_text()) == summary


@pytest.mark.parametrize("output_format", ["csv", "submission"])
def test_rows_are_counted_over_all_files(classifier, tmp_path, output_format):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"id,text\n" + b"1,enak\n" * 10 + b"2\n" + b"3,kotor\n" * 2)
    inputs = [tmp_path / "a.csv", tmp_path / "b.csv"]
    score_files(classifier, inputs, tmp_path / "out.csv", output_format=output_format, on_bad_row="skip")
    rejects = [json.loads(line) for line in (tmp_path / "out.csv.rejects.jsonl").read_text().splitlines()]
    assert [(row["line"], row["row"]) for row in rejects] == [(12, 10), (12, 23)]
    if output_format == "submission":
        indices = [int(row["index"]) for row in read_file(tmp_path / "out.csv")]
        assert indices == [i for i in range(26) if i not in (10, 23)]


def test_rejects_of_an_earlier_job_do_not_stay(classifier, tmp_path):
    (tmp_path / "in.csv").write_bytes(b"id,text\n1,enak\n2\n")
    score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", on_bad_row="skip")
    (tmp_path / "in.csv").write_bytes(b"id,text\n1,enak\n")
    (tmp_path / "out.csv").unlink()
    score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", on_bad_row="skip")
    assert not (tmp_path / "out.csv.rejects.jsonl").exists()


def test_paths_may_be_of_any_kind(classifier, tmp_path):
    write_file(tmp_path / "in.csv", rows_of(3))
    whole = score_files(classifier, [str(tmp_path / "in.csv")], str(tmp_path / "a.csv"))["output"]
    assert score_paths(classifier, tmp_path / "in.csv", tmp_path / "b.csv")[0]["output"] == whole
    assert score_paths(classifier, iter([tmp_path / "in.csv"]), str(tmp_path / "c.csv"))[0]["output"] == whole
    for inputs, output in (([], "d.csv"), ("", "d.csv"), (tmp_path / "in.csv", "")):
        with pytest.raises(ValueError, match="name an input and an output"):
            score_paths(classifier, inputs, output)


class Stopped(Exception):
    """Stands for a kill."""


def stop_after(monkeypatch, n_parts):
    """Make the next run stop when it has written so many parts."""
    write_part, n_written = job_module.Job._write_part, []

    def write(self, *args):
        if len(n_written) == n_parts:
            raise Stopped
        n_written.append(args)
        write_part(self, *args)

    monkeypatch.setattr(job_module.Job, "_write_part", write)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet"])
@pytest.mark.parametrize("n_parts", [0, 1, 3])
def test_a_stopped_job_goes_on_from_its_parts_to_the_same_bytes(classifier, tmp_path, monkeypatch, suffix, n_parts):
    path, whole, target = (tmp_path / f"{name}.{suffix}" for name in ("in", "whole", "out"))
    write_file(path, rows_of(30))
    score_files(classifier, [path], whole)
    with monkeypatch.context() as patch:
        stop_after(patch, n_parts)
        with pytest.raises(Stopped):
            score_files(classifier, [path], target)
    assert not target.exists()
    parts = {part: part.stat().st_mtime_ns for part in (tmp_path / f"out.{suffix}.parts").glob("rows-*.json")}
    assert len(parts) == n_parts
    write_part, n_scored = job_module.Job._write_part, []
    monkeypatch.setattr(
        job_module.Job, "_write_part", lambda *args: n_scored.append(args[2].n_read) or write_part(*args)
    )
    summary = score_files(classifier, [path], target)
    assert sum(n_scored) == 30 - 8 * n_parts
    assert target.read_bytes() == whole.read_bytes()
    assert summary["read"] == 30 and not (tmp_path / f"out.{suffix}.parts").exists()
    assert summary["rows_per_second"] * summary["seconds"] == pytest.approx(sum(n_scored), rel=0.2)


@pytest.fixture
def stopped(classifier, tmp_path, monkeypatch):
    """A job of 30 rows that was stopped after two parts."""
    write_file(tmp_path / "in.csv", rows_of(30))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    return tmp_path


@pytest.mark.parametrize("change, message", [
    ({"labels_only": True}, "labels_only was False, is True"),
    ({"prefix": "x_"}, "prefix was , is x_"),
    ({"on_bad_row": "skip"}, "on_bad_row was strict, is skip"),
    ({"text_column": "id"}, "inputs was"),
])  # fmt: skip
def test_parts_of_another_option_are_refused(classifier, stopped, change, message):
    with pytest.raises(ValueError, match=f"out.csv.parts holds finished parts of another job.*{message}"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv", **change)


def test_parts_of_another_input_or_model_are_refused(classifier, stopped, tiny_model, tokenizer):
    other = make_classifier(tiny_model, tokenizer, max_length=20)
    with pytest.raises(ValueError, match="another job: max_length was 64, is 20"):
        score_files(other, [stopped / "in.csv"], stopped / "out.csv")
    classifier.sha256 = "another"
    with pytest.raises(ValueError, match="another job: model was"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")
    content = (stopped / "in.csv").read_bytes()
    stat = (stopped / "in.csv").stat()
    (stopped / "in.csv").write_bytes(content.replace(b"enak", b"anak", 1))
    os.utime(stopped / "in.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    classifier.sha256 = json.loads((stopped / "out.csv.parts" / "job.json").read_text())["model"]
    with pytest.raises(ValueError, match="another job: inputs was"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")
    (stopped / "in.csv").write_bytes(content)
    assert score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")["read"] == 30


@pytest.mark.parametrize("name", ["precision", "backend", "batch_tokens", "window_rows", "versions", "device"])
def test_parts_of_another_engine_or_library_are_refused(classifier, stopped, monkeypatch, name):
    if name == "versions":
        monkeypatch.setattr(job_module, "find_version", lambda library: "0.1")
    elif name == "device":
        monkeypatch.setattr(classifier.engine, "device", torch.device("meta"))
    else:
        monkeypatch.setattr(classifier.engine, name, 16)
    with pytest.raises(ValueError, match=f"another job: {name} was .*, is .*(16|0.1|meta)"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")


def test_a_cut_part_is_scored_again_and_a_changed_one_named(classifier, stopped):
    whole = stopped / "whole.csv"
    score_files(classifier, [stopped / "in.csv"], whole)
    first, second = sorted((stopped / "out.csv.parts").glob("rows-*.csv"))
    first.write_bytes(first.read_bytes()[:-1])
    content = second.read_bytes()
    second.write_bytes(b"#" + content[1:])
    with pytest.raises(ValueError, match="rows-000000000008-000000000015.csv is damaged"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")
    assert not (stopped / "out.csv").exists()
    second.unlink()
    score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")
    assert (stopped / "out.csv").read_bytes() == whole.read_bytes()


def test_a_finished_job_has_nothing_to_do_and_another_file_stays(classifier, tmp_path, caplog):
    caplog.set_level("INFO")
    write_file(tmp_path / "in.csv", rows_of(10))
    first = score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    before = (tmp_path / "out.csv").stat().st_mtime_ns
    assert score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv") == first
    assert "Nothing to do" in caplog.text and (tmp_path / "out.csv").stat().st_mtime_ns == before
    for content in (b"mine", (tmp_path / "out.csv").read_bytes() + b"\n"):
        (tmp_path / "out.csv").write_bytes(content)
        with pytest.raises(FileExistsError, match="out.csv exists already"):
            score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_bytes() == content


def test_two_runs_on_one_output_do_not_meet(classifier, stopped):
    lock = job_module.FileLock(stopped / "out.csv.parts" / "lock")
    with lock, pytest.raises(FileExistsError, match="another run is writing"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")
    assert score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")["read"] == 30


def test_a_row_that_is_lost_between_parts_is_noticed(classifier, stopped):
    record = json.loads((part := next((stopped / "out.csv.parts").glob("rows-*.json"))).read_text())
    part.write_text(json.dumps(record | {"read": 7}))
    with pytest.raises(ValueError, match="holds 29 rows, not 30"):
        score_files(classifier, [stopped / "in.csv"], stopped / "out.csv")


def test_an_input_that_changes_meanwhile_is_noticed(classifier, tmp_path):
    write_file(tmp_path / "in.csv", rows_of(30))
    job = job_module.Job(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    job.check()
    content = (tmp_path / "in.csv").read_bytes()
    (tmp_path / "in.csv").write_bytes(content.replace(b"enak", b"anak"))
    with pytest.raises(ValueError, match="in.csv was changed while it was scored"):
        job.run()
    assert not (tmp_path / "out.csv").exists()


def test_an_input_that_grows_while_it_is_scored_is_noticed(classifier, tmp_path, monkeypatch):
    write_file(tmp_path / "in.csv", rows_of(30))
    write_part = job_module.Job._write_part

    def grow(*args):
        write_part(*args)
        with (tmp_path / "in.csv").open("a") as lines:
            lines.write("031,enak\n")

    monkeypatch.setattr(job_module.Job, "_write_part", grow)
    with pytest.raises(ValueError, match="in.csv was changed while it was scored: remove .*out.csv.parts and run"):
        score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_job_that_failed_can_be_run_again_in_the_same_process(classifier, tmp_path, monkeypatch):
    write_file(tmp_path / "in.csv", rows_of(30))
    failures = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            stop_after(patch, 1)
            with pytest.raises(Stopped) as failure:
                score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
        failures.append(failure)  # as a notebook keeps the last traceback, and with it the job
    assert score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")["read"] == 30


def test_a_bad_row_in_the_last_file_stops_before_the_first_is_scored(classifier, tmp_path):
    for name, content in (("a.csv", b"id,text\n1,a\n"), ("b.csv", b"id,text\n1\n")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRowsError, match="b.csv:2"):
        score_paths(classifier, [str(tmp_path / "*.csv")], str(tmp_path / "scored"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_what_a_glob_finds_of_its_own_output_is_no_input(classifier, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text('{"text":"enak"}\n{"text":1}\n')
    monkeypatch.chdir(tmp_path)
    for inputs in ([str(tmp_path / "*")], str(tmp_path / "*")):
        (summary,) = score_paths(classifier, inputs, "out.jsonl", on_bad_row="skip")
        assert (summary["read"], summary["rejected"]) == (2, 1)
    assert (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_what_a_recursive_glob_finds_in_parts_or_in_the_output_is_no_input(tmp_path):
    files = ["a.csv", "deep/b.csv", "out.csv.parts/rows-0-7.csv", "out/mine.csv"]
    finished, begun = ["out/a.csv", "out/a.csv.summary.json"], ["out/b.csv.parts/rows-0-7.csv"]
    for name in (*files, *finished, *begun):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()

    def found(pattern, output):
        return {str(file.relative_to(tmp_path)) for file in find_inputs([str(tmp_path / pattern)], tmp_path / output)}

    assert found("**/*.csv", "out") == {*files}
    assert found("**/*.csv", "out.csv") == {*files, "out/a.csv", *begun} - {"out.csv.parts/rows-0-7.csv"}
    assert found("deep/*.csv", ".") == {"deep/b.csv"}
    with pytest.raises(ValueError, match="matches only what belongs to the output .*: write elsewhere"):
        found("out/a.*", "out")


@pytest.mark.parametrize("content", ["{}", "[]", "null", "", '{"job": 1}'])
def test_a_summary_of_someone_else_is_no_proof(classifier, tmp_path, content):
    write_file(tmp_path / "in.csv", rows_of(3))
    (tmp_path / "out.csv").write_text("mine")
    (tmp_path / "out.csv.summary.json").write_text(content)
    with pytest.raises(FileExistsError, match="out.csv exists already"):
        score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_a_label_with_a_comma_stays_one_field_of_a_submission(tokenizer, tmp_path):
    labels = ("very good, yes", "so so", "bad")
    classifier = make_classifier(make_model(labels), tokenizer)
    write_file(tmp_path / "in.csv", [{"text": text} for text in ("enak", "kotor", "", "murah")])
    score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", output_format="submission")
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert {len(row) for row in rows} == {2} and rows[3] == ["2", ""]
    with pytest.raises(ValueError, match="two labels the same name"):
        make_classifier(make_model(("x", "y", "x")), tokenizer)
