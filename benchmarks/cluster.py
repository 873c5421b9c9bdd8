"""Label the same rows on one machine, on Ray and on Spark: what differs, rows/s once warm, and memory.

python benchmarks/cluster.py --rows 50000 200000

Each contender runs in a process of its own, with all cores, on each number of rows. Rows/s once warm are the difference
between the last and the first number of rows, divided by that of their seconds: starting up is not counted. `differ`
counts cells of the last output that differ from one machine's, keys and original columns included. Probabilities are
not counted; a column of their own has their largest difference.
"""

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from smsa import find_smsa, load_splits
from smsa.data.labels import LABELS

N_FILES = 4  # of the input
HOSTILE = [
    *("", "   ", "\u3000\n", "😀👍🏽", "a\0b", "enak " * 2000, 'kata "dikutip",\nbaris', "\ufeffbom", "=1+1", "\\N"),
    "é" * 999,
]
ENGINES = ("one machine", "ray", "spark")


def write_rows(folder: Path, n_rows: int, kind: str) -> None:
    """Write SmSA's reviews, numbered so that all differ; a hostile text replaces one in twenty."""
    texts = load_splits(find_smsa(), LABELS)["train"]["text"]
    for start, stop in itertools.pairwise(np.linspace(0, n_rows, N_FILES + 1).astype(int)):
        keys = range(start, stop)
        column = [HOSTILE[i // 20 % len(HOSTILE)] if i % 20 == 0 else f"{texts[i % len(texts)]} {i}" for i in keys]
        frame = pd.DataFrame({"key": keys, "text": column, "code": [f"{i:09d}" for i in keys]})
        if kind == "parquet":
            pq.write_table(pa.Table.from_pandas(frame), folder / f"{start}.parquet", row_group_size=10_000)
        elif kind == "csv":
            frame.to_csv(folder / f"{start}.csv", index=False, quoting=1)
        else:
            frame.to_json(folder / f"{start}.jsonl", orient="records", lines=True, force_ascii=False)


def label(engine: str, kind: str, source: Path, output: Path, model: str, precision: str) -> None:
    """Label a folder; called in a process of its own."""
    from smsa import SentimentClassifier, predict_files
    from smsa.inference.engine import EngineArguments
    from smsa.inference.job import PredictionArguments

    if engine == "one machine":
        classifier = SentimentClassifier.from_pretrained(model, precision=precision)
        output.mkdir()
        predict_files(classifier, source, output / f"all.{kind}", text_column="text")
        (output / f"all.{kind}.summary.json").unlink()
    elif engine == "ray":
        from smsa.inference.on_ray import predict_on_ray

        args = PredictionArguments([str(source)], str(output), model=model, text_column="text")
        predict_on_ray(args, EngineArguments(precision=precision))
    else:
        from pyspark.sql import SparkSession

        from smsa import spark

        n_cores = os.cpu_count()
        builder = SparkSession.builder.master(f"local-cluster[1,{n_cores},2048]").config("spark.ui.enabled", "false")
        session = builder.config("spark.task.cpus", n_cores).getOrCreate()
        read = {"parquet": session.read.parquet, "jsonl": session.read.json, "csv": session.read.csv}[kind]
        options = {"header": True, "multiLine": True, "escape": '"'} if kind == "csv" else {}
        rows = spark.predict(read(str(source), **options), "text", model, precision=precision)
        write = {"parquet": rows.write.parquet, "jsonl": rows.write.json, "csv": rows.write.csv}[kind]
        write(str(output), **({"header": True, "escape": '"'} if kind == "csv" else {}))


def measure(*words: object) -> tuple[float, int, int]:
    """Run `label` in a process of its own; return its seconds, and the peaks of its memory and of its children's."""
    command = [sys.executable, __file__, "--label", *map(str, words)]
    done, peaks = threading.Event(), [0, 0]
    environment = os.environ | {"RAY_worker_niceness": "0", "PYSPARK_PYTHON": sys.executable}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent), "SPARK_LOCAL_IP": "127.0.0.1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:

        def watch() -> None:
            driver = psutil.Process(run.pid)
            while not done.wait(1):
                sizes = [0, 0]
                for i, process in [(0, driver), *((1, child) for child in driver.children(recursive=True))]:
                    with suppress(psutil.Error):
                        sizes[i] += process.memory_full_info().uss  # not what is shared, such as Ray's store
                peaks[:] = map(max, peaks, sizes)

        thread = threading.Thread(target=watch)
        thread.start()
        started = time.monotonic()
        errors = run.stderr.read()
        status = run.wait()
        seconds = time.monotonic() - started
        done.set()
        thread.join()
    if status:
        raise RuntimeError(f"{shlex.join(command)}:\n{errors[-5000:]}")
    return seconds, *peaks


def read_rows(output: Path, kind: str) -> pd.DataFrame:
    """Return the rows of all files of a folder, sorted by key."""
    files = [file for file in sorted(output.iterdir()) if not file.name.startswith(("_", ".")) and file.stat().st_size]
    if kind == "parquet":
        frames = [pq.read_table(file).to_pandas() for file in files]
    elif kind == "csv":
        frames = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files]
    else:
        frames = [pd.DataFrame(map(json.loads, file.read_text("utf-8").strip().split("\n"))) for file in files]
    rows = pd.concat(frames, ignore_index=True)
    return rows.sort_values("key", key=lambda keys: keys.astype(int)).reset_index(drop=True)


def compare(rows: pd.DataFrame, expected: pd.DataFrame) -> tuple[int, float]:
    """Return how many cells differ, and the largest difference of a probability."""
    if len(rows) != len(expected) or {*rows} != {*expected}:
        return max(rows.size, expected.size), float("nan")
    rows = rows[[*expected]]  # Spark sorts the keys of JSON
    probabilities = [name for name in rows if name == "score" or name.startswith("p_")]
    others = [name for name in rows if name not in probabilities]
    unequal = rows[others].fillna("").astype(str) != expected[others].fillna("").astype(str)
    numbers, wanted = (frame[probabilities].replace("", None).astype(float) for frame in (rows, expected))
    n_differ = int(unequal.to_numpy().sum()) + int((numbers.isna() != wanted.isna()).to_numpy().sum())
    return n_differ, float((numbers - wanted).abs().max().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--formats", nargs="+", default=["parquet"], choices=["parquet", "csv", "jsonl"])
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--model", default="mini-sentiment")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    print("| engine | format | rows/s once warm | of one machine | differ | probabilities | MB of driver, workers |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for kind in args.formats:
        with TemporaryDirectory() as name:
            expected, of_one = None, None
            for engine in dict.fromkeys(["one machine", *args.engines]):
                runs = []
                for n_rows in args.rows:
                    source, output = Path(name, f"{n_rows}"), Path(name, f"{engine.split()[0]}-{n_rows}")
                    if not source.exists():
                        source.mkdir()
                        write_rows(source, n_rows, kind)
                    runs.append(measure(engine, kind, source, output, args.model, args.precision))
                found = read_rows(output, kind)
                expected = found if expected is None else expected
                n_differ, difference = compare(found, expected)
                pace = (args.rows[-1] - args.rows[0]) / (runs[-1][0] - runs[0][0]) if len(runs) > 1 else float("nan")
                of_one = of_one or pace
                memory = "; ".join(f"{driver / 1e6:,.0f}, {workers / 1e6:,.0f}" for _, driver, workers in runs)
                print(
                    f"| {engine} | {kind} | {pace:,.0f} | {pace / of_one:.0%} | {n_differ} of {found.size:,} "
                    f"| {difference:.1g} | {memory} |",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--label"]:
        engine, kind, source, output, model, precision = sys.argv[2:]
        label(engine, kind, Path(source), Path(output), model, precision)
    else:
        main()
