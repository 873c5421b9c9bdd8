"""Ray and Spark give what one machine gives: every row once, its columns as they were, and the same labels.

`SMSA_CLUSTER_ROWS=200000 pytest -m slow tests/inference/test_cluster.py` compares as many rows.
"""

import contextlib
import itertools
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, make_model, make_tokenizer, save_tiny
from datasets import Dataset
from processes import run
from tables import HOSTILE, read_file, write_file

from smsa import SentimentClassifier
from smsa.errors import UserError
from smsa.inference import BatchPredictor
from smsa.inference.batches import find_added
from smsa.inference.engine import EngineArguments
from smsa.inference.job import PredictionArguments, predict_files

N_ROWS = int(os.environ.get("SMSA_CLUSTER_ROWS", "3000"))
TEXTS = [None, "enak " * 9000, *HOSTILE]
FP32 = EngineArguments(precision="no", backend="torch")
# quotes are doubled, and spaces and line breaks are a text's own; an empty field is an empty text
CSV_OF_SPARK = {"header": True, "escape": '"', "emptyValue": "", "ignoreLeadingWhiteSpace": False}
CSV_OF_SPARK |= {"ignoreTrailingWhiteSpace": False, "lineSep": "\n"}
UNDISTURBED = [("parquet", None), ("csv", None), ("jsonl", None)]  # formats, and what is killed
TOLERANCE = 1e-6  # of probabilities in fp32, which depend on the texts of a batch in the last bits


def make_table(n: int = N_ROWS) -> pa.Table:
    usual = [f"kotor dan mahal {'sekali ' * (i % 9)}{i}" for i in range(n)]
    texts = [text if i % 7 else TEXTS[i // 7 % len(TEXTS)] for i, text in enumerate(usual)]
    whens = pa.array([1000003 * i for i in range(n)], pa.timestamp("us", "UTC"))
    codes = [f"{i:06d}" for i in range(n)]
    columns = {"key": range(n), "text": pa.array(texts, pa.string()), "code": codes, "when": whens}
    return pa.table(columns | {"tags": [["a", str(i)] for i in range(n)], "Label": [None, 1.5] * (n // 2)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of each format, and a tiny model; none of them is written to."""
    folder, table = tmp_path_factory.mktemp("cluster"), make_table()
    model, tokenizer = make_model().eval(), make_tokenizer()
    texts = [text for text in table["text"].to_pylist()[:200] if text and text.strip()]
    with torch.no_grad():  # it gives each label to many texts
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=128)
        model.classifier.weight *= 20
        model.classifier.bias -= model(**inputs).logits.mean(0)
    save_tiny(folder / "model", model)
    for i, (start, stop) in enumerate(itertools.pairwise(n * N_ROWS // 3 for n in range(4))):
        part = table.slice(start, stop - start)
        pq.write_table(part, folder / f"{i}.parquet", row_group_size=N_ROWS // 10)
        rows = part.select(["key", "text", "code", "Label"]).to_pylist()
        write_file(folder / f"{i}.csv", rows)
        write_file(folder / f"{i}.jsonl", [row | {"n": 10**20} for row in rows])
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of three nodes, each with processes and an object store of its own."""
    pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_worker_niceness", "0")
        options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
        cluster.node_options = options
        for _ in range(2):
            cluster.add_node(**options)
        yield cluster
        import ray

        ray.shutdown()
        cluster.shutdown()


def predict_on_ray(cluster, folder, output, inputs, engine=FP32, **options) -> dict:
    from smsa.inference import on_ray

    options = {"model": str(folder / "model"), "ray_address": cluster.address, **options}
    args = PredictionArguments([str(path) for path in inputs], str(output), **options)
    return on_ray.predict_on_ray(args, engine)


def read(path) -> list[dict]:
    """Return the rows of a file, or of the files of a folder, by their key."""
    files = [path] if path.is_file() else path.glob("[!_.]*")
    return sorted((row for file in files for row in read_file(file)), key=lambda row: int(row["key"]))


def assert_same(path, expected_path) -> None:
    """Compare row by row: all is equal, but for the last bits of probabilities."""
    rows, expected = read(path), read(expected_path)
    assert len(rows) == len(expected) > 0
    for row, other in zip(rows, expected, strict=True):
        assert [*row] == [*other]
        numbers = {name for name in row if name.startswith(("smsa_score", "smsa_p_")) and row[name] not in (None, "")}
        assert {k: v for k, v in row.items() if k not in numbers} == {k: other[k] for k in row if k not in numbers}
        assert all(abs(float(row[name]) - float(other[name])) < TOLERANCE for name in numbers)


@pytest.fixture(scope="module")
def of_one_machine(folder):
    """What predict.py gives for the files of a suffix."""
    classifier = SentimentClassifier.from_pretrained(str(folder / "model"), **vars(FP32))

    @cache
    def predict(suffix: str):
        output = folder / "one" / f"all.{suffix}"
        (predicted,) = predict_files(classifier, str(folder / f"[0-2].{suffix}"), output, text_column="text")
        assert min(predicted["labels"].values()) > 100
        return output

    return predict


@pytest.mark.parametrize("kind", ["table", "frame", "frames", "arrays"])
def test_a_batch_comes_back_as_its_kind_with_the_columns_of_one_machine(folder, of_one_machine, kind):
    predictor = BatchPredictor(str(folder / "model"), **vars(FP32))
    table = make_table(300)
    frame = table.to_pandas()
    batch = {"table": table, "frame": frame, "frames": pd.concat([frame[:9], frame[9:]])}.get(kind)
    if kind == "arrays":
        batch = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    added = predictor(batch)
    assert type(added) is type(batch)
    if kind == "arrays":  # each process loads the model
        mapped = Dataset(table).map(predictor, batched=True, num_proc=2)
        assert mapped.to_pandas()["smsa_label"].fillna("").tolist() == [label or "" for label in added["smsa_label"]]
    if kind == "table":
        for options in ({}, {"labels_only": True}, {"explain": True, "prefix": "x_"}):
            known = find_added(table.column_names, str(folder / "model"), **options)  # before anything is predicted
            found = BatchPredictor(str(folder / "model"), **options, **vars(FP32))(table[:9])
            assert found.schema.equals(pa.schema([*table.schema, *known]))
    expected = pd.DataFrame(read(of_one_machine("parquet"))[:300])
    frame = added.to_pandas() if kind == "table" else pd.DataFrame(dict(added))
    assert [*frame.columns] == [*expected.columns]
    assert frame["smsa_label"].fillna("").tolist() == expected["smsa_label"].fillna("").tolist()
    assert np.allclose(frame["smsa_score"].astype(float), expected["smsa_score"].astype(float), 0, 1e-6, equal_nan=True)
    assert frame["text"].fillna("").tolist() == table["text"].fill_null("").to_pylist()


def test_a_batch_without_texts_says_which_columns_it_has(folder):
    predictor = BatchPredictor(str(folder / "model"), text_column="teks", **vars(FP32))
    for batch, message in (
        ({"text": np.array(["enak"])}, "no column 'teks', .*. The columns are: text. Give one as text_column"),
        (pd.DataFrame([["enak", "kotor"]], columns=["teks", "teks"]), "or more than one. The columns are: teks, teks"),
        (pd.DataFrame({0: [1], "text": ["enak"]}), "The columns are: 0, text"),
        (pa.table({"teks": [1]}), "'teks' must hold texts of valid Unicode: .*int"),
        ({"teks": np.array(["\ud800"], dtype=object)}, "'teks' must hold texts of valid Unicode: .*surrogates"),
        ({"teks": "enak"}, "it is one text; .*batched=True"),
    ):
        with pytest.raises(UserError, match=message):
            predictor(batch)
    for nothing in (pa.table({"teks": pa.nulls(2)}), pd.DataFrame({"teks": [np.nan, np.nan], 0: [1, 2]})):
        assert np.all(predictor(nothing)["empty"])


def test_prediction_imports_neither_trainer_nor_ray_nor_spark():
    code = "import sys, smsa, smsa.inference.batches, runpy; runpy.run_path('scripts/predict.py')"
    code += "; assert not {'transformers.trainer', 'ray', 'pyspark', 'upath'} & set(sys.modules)"
    run(sys.executable, "-c", code)


def test_ray_refuses_at_once_what_it_cannot_label_and_a_cluster_without_cores(folder, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs pip install -e '.[ray]'")
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {}}])
    file, output = folder / "0.csv", tmp_path / "out.csv"
    output.with_name("out.csv.summary.json").touch()
    for inputs, error, message, options in (
        ([file, folder / "*.csv"], UserError, "0.csv is named twice", {}),
        ([file, f"file://{file}"], UserError, "0.csv is named twice", {}),
        ([""], UserError, "name an input and an output", {}),
        ([f"file://{tmp_path}"], FileNotFoundError, "has no file of a known format", {}),
        ([file], UserError, "--engine ray", {"on_bad_row": "skip"}),
        ([file], UserError, "--engine ray", {"format": "xlsx"}),
        ([file], (UserError, OSError), "no-such-model", {"model": str(tmp_path / "no-such-model")}),
        ([file], UserError, "no machine of the cluster has 4 cores", {}),
    ):
        with pytest.raises(error, match=message):
            predict_on_ray(SimpleNamespace(address=None), folder, output, inputs, text_column="text", **options)
    output.mkdir()
    with pytest.raises(FileExistsError, match="exists already: choose another --output"):
        predict_on_ray(SimpleNamespace(address=None), folder, output, [file], text_column="text")


def test_spark_takes_strings_only_and_a_worker_the_cores_of_its_task_where_none_are_given(monkeypatch):
    pytest.importorskip("pyspark", reason="needs pip install -e '.[spark]'")
    from smsa.inference import spark as module

    columns = SimpleNamespace(dtypes=[("key", "bigint"), ("text", "string")])
    with pytest.raises(UserError, match="no column 'key' of strings. The columns are: key: bigint, text: string. Give"):
        module.predict(columns, "key")
    task = SimpleNamespace(cpus=lambda: 3, resources=lambda: {"gpu": SimpleNamespace(addresses=["1"])})
    monkeypatch.setattr(module.TaskContext, "get", lambda: task)
    monkeypatch.setattr(module, "BatchPredictor", lambda *_, **options: options)
    found = module._load(None, None, tuple(vars(FP32).items()))
    assert (found["num_threads"], found["device"], found["backend"]) == (3, "cuda:1", "torch")


@contextlib.contextmanager
def killing(find: Callable[[], list[Callable]]):
    """Call one of what is found to kill, at a random moment of the block; nothing need be found."""
    done, killed = threading.Event(), []

    def kill() -> None:
        while not killed and not done.wait(random.uniform(0, 0.3)):  # Spark's warm workers need less than a second
            with contextlib.suppress(psutil.Error):  # it has ended by itself
                for kill_one in find()[:1]:
                    kill_one()
                    killed.append(kill_one)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


def find_processes(*names: str) -> list[Callable]:
    """Return what kills the processes of Ray that do one of these things now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(" ".join(process.cmdline()).startswith(f"ray::{name}") for name in names):
                found.append(process.kill)
    return found


@pytest.mark.slow(1800)
@pytest.mark.parametrize("suffix, victim", [*UNDISTURBED, *(("parquet", kind) for kind in ("actor", "task", "node"))])
def test_ray_gives_what_one_machine_gives_also_after_a_kill(cluster, folder, of_one_machine, tmp_path, suffix, victim):
    def find() -> list[Callable]:
        actors = find_processes("MapWorker", "MapBatches(BatchPredictor")
        nodes = [partial(cluster.remove_node, node, False) for node in cluster.worker_nodes] if actors else []
        tasks = find_processes("MapBatches(_read", "Write")
        return {"actor": actors, "node": nodes, "task": tasks}.get(victim, [])

    output, url = tmp_path / "out", f"file://{folder}/" if suffix == "csv" else f"{folder}/"
    with killing(find) as killed:
        summary = predict_on_ray(cluster, folder, output, [url + f"*.{suffix}"], text_column="text")
    if victim == "node":
        cluster.add_node(**cluster.node_options)
    assert bool(killed) == bool(victim)
    assert {file.suffix for file in output.iterdir()} == {f".{suffix}"}
    assert_same(output, of_one_machine(suffix))
    rows = read(output)
    assert (summary["read"], summary["empty"]) == (N_ROWS, sum(not row["smsa_label"] for row in rows))
    assert sum(summary["labels"].values()) == N_ROWS - summary["empty"]
    if suffix == "parquet":
        assert pq.read_schema(next(output.iterdir())).equals(pq.read_schema(of_one_machine(suffix)))


@pytest.mark.slow(1800)
def test_errors_are_ours_and_end_a_run_on_ray(cluster, folder, tmp_path):
    data = bytearray((folder / "0.parquet").read_bytes())
    data[200:2000] = os.urandom(1800)
    (tmp_path / "b.parquet").write_bytes(data)
    (tmp_path / "b.csv").write_text("text,other\nenak,1\n")
    (tmp_path / "c.csv").write_bytes((folder / "0.csv").read_bytes()[:40] + b'\n"1","x')
    wrong = EngineArguments(precision="no", backend="torch", batch_tokens=-1)  # is refused by the actor
    for first, second, engine, message in (
        (folder / "0.parquet", tmp_path / "b.parquet", FP32, "b.parquet: row group 0 cannot be read"),
        (folder / "0.csv", tmp_path / "b.csv", FP32, "b.csv has other columns than .*0.csv"),
        (folder / "0.csv", folder / "0.jsonl", FP32, "0.jsonl has other columns than .*0.csv"),
        (folder / "0.csv", tmp_path / "c.csv", FP32, "bad row.*\n.*c.csv"),
        (folder / "0.csv", folder / "1.csv", wrong, "batch_tokens is -1"),
    ):
        options = {"text_column": "text", "format": "jsonl" if second.suffix == ".jsonl" else None}
        started = time.monotonic()
        with pytest.raises(UserError, match=message):
            predict_on_ray(cluster, folder, tmp_path / f"{second.name}.out", [first, second], engine, **options)
        assert time.monotonic() - started < 300  # Ray would retry for much longer


@pytest.fixture(scope="module")
def spark():
    """Two executors, each a process with one core."""
    pytest.importorskip("pyspark", reason="needs pip install -e '.[spark]'")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        builder = SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.task.maxFailures", "4")
        session = builder.config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS").getOrCreate()
        yield session
        session.stop()


@pytest.mark.slow(1800)
@pytest.mark.parametrize("suffix, victim", [*UNDISTURBED, ("parquet", "worker"), ("parquet", "executor")])
def test_spark_gives_what_one_machine_gives_also_after_a_kill(spark, folder, of_one_machine, tmp_path, suffix, victim):
    import smsa

    def find() -> list[Callable]:
        found = []
        for process in psutil.Process().children(recursive=True) if victim else ():
            with contextlib.suppress(psutil.Error):
                words, workers = " ".join(process.cmdline()), process.children()
                if workers and "pyspark" in words and "daemon" in words:
                    found.append((workers[0] if victim == "worker" else process.parent()).kill)
        return found

    files, output = [str(folder / f"{i}.{suffix}") for i in range(3)], str(tmp_path / "out")
    if suffix == "csv":
        df = spark.read.csv(files, multiLine=True, **CSV_OF_SPARK)
    elif suffix == "jsonl":
        df = spark.read.json(files, schema="key long, text string, code string, Label double, n decimal(21)")
    else:
        df = spark.read.parquet(*files)
    labelled = smsa.spark.predict(df, "text", str(folder / "model"), **vars(FP32))
    assert labelled.columns[: len(df.columns)] == df.columns and labelled.dtypes[: len(df.columns)] == df.dtypes
    with killing(find) as killed:
        if suffix == "csv":
            labelled.write.csv(output, quoteAll=True, **CSV_OF_SPARK)
        elif suffix == "jsonl":
            labelled.write.json(output, ignoreNullFields=False)
        else:
            labelled.write.parquet(output)
    assert bool(killed) == bool(victim)
    assert_same(tmp_path / "out", of_one_machine(suffix))
