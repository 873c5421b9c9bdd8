"""scripts/predict.py as one runs it: pipes, processes, full disks and kills, all of them real."""

import csv
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from conftest import ROOT, read_json, save_tiny
from killed import run_script
from processes import Forks, Program, launch, run
from tables import ADDED, HOSTILE, read_file, write_file

from smsa import SentimentClassifier

SCRIPT = "scripts/predict.py"
FAST = ("--backend", "torch", "--num_threads", "1")
COMMAND = (sys.executable, SCRIPT)
FORKS = Forks()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model")))


def options_of(model, path, output, *more) -> list[str]:
    return ["--model", model, "--input", str(path), "--output", str(output), *FAST, *more]


def predict(*words, n_ranks: int = 1, **environment) -> list[int]:
    """Run the script in forks; return the exit status of each rank."""
    return FORKS.run(run_script, SCRIPT, *options_of(*words), n_ranks=n_ranks, **environment)


def read_finished(output: Path) -> dict[str, tuple[int, int]]:
    """Return which shards are finished, with what tells whether they were written again."""
    shards = Path(f"{output}.shards").glob("part-*.arrow")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}


def test_a_pipe_goes_through_and_the_log_says_how(model):
    words = [*COMMAND, *options_of(model, "-", "-", "--input_format", "csv", "--format", "csv")]
    content = "id,review\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(["enak", "", "kotor " * 300]))
    done = subprocess.run(words, input=content.encode(), capture_output=True, cwd=ROOT, timeout=120)
    log = done.stderr.decode()
    assert done.returncode == 0, log
    header, *rows = csv.reader(done.stdout.decode().splitlines())  # the bar and the log are on stderr
    assert header == ["id", "review", *ADDED]
    assert [row[:2] for row in rows] == list(csv.reader(content.splitlines()))[1:]
    assert "the texts are in the column 'review'" in log
    last = log.rstrip().splitlines()[-1]
    assert last.startswith("3 rows: positive ") and "1 empty, 1 truncated, 0 rejected" in last and " rows/s" in last


@pytest.mark.slow
def test_a_pipe_that_is_full_is_an_error(model):
    words = shlex.join([*COMMAND, *options_of(model, "-", "-")])
    text = run("bash", "-c", f"echo enak | {words} > /dev/full", status=1, PYTHONUNBUFFERED="")
    assert re.search("error: .*No space left.*'stdout'", text)


def test_ranks_stop_together_at_a_bad_row_and_label_every_row_once_and_in_order(model, tmp_path):
    """Files of sizes around the boundaries of a chunk of eight."""
    (tmp_path / "in").mkdir()
    sizes = {"a.csv": 7, "b.csv": 16, "c.csv": 50}
    for name, n_rows in sizes.items():
        write_file(tmp_path / "in" / name, [{"id": f"{i}", "text": HOSTILE[i % len(HOSTILE)]} for i in range(n_rows)])
    (tmp_path / "in" / "d.csv").write_bytes(b"id,text\n1\n")
    words = model, tmp_path / "in", tmp_path / "out"
    assert predict(*words, n_ranks=2) == [1, 1]  # both end by themselves
    assert FORKS.printed.count("d.csv:2: 1 field(s) instead of 2") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["in"]
    (tmp_path / "in" / "d.csv").unlink()
    assert predict(*words, n_ranks=2) == [0, 0], FORKS.printed
    classifier = SentimentClassifier.from_pretrained(model, backend="torch", num_threads=1)
    for name, n_rows in sizes.items():
        rows = read_file(tmp_path / "out" / name)
        assert [row["id"] for row in rows] == [str(i) for i in range(n_rows)]
        assert [row["label"] or None for row in rows] == [a["label"] for a in classifier([row["text"] for row in rows])]


@pytest.mark.slow
def test_a_full_disk_loses_nothing(model, small_disk, tmp_path):
    rows, output = [{"id": str(i), "text": "enak dan murah sekali " * 40} for i in range(100)], small_disk / "out.csv"
    write_file(tmp_path / "in.csv", rows)
    (small_disk / "earlier.csv").write_text("earlier")
    words = model, tmp_path / "in.csv", output
    assert predict(*words) == [1]
    assert f"No space left on device: '{output}'" in FORKS.printed and "the same command resumes" in FORKS.printed
    assert "Traceback" not in FORKS.printed
    assert (small_disk / "earlier.csv").read_text() == "earlier" and not output.exists()
    finished = read_finished(output)
    run("mount", "-o", "remount,size=10m", small_disk)
    predict(*words, SMSA_KILL="any open .*merged.*")  # the shards are still there when it dies
    assert 0 < len(finished) and finished.items() <= read_finished(output).items()
    assert predict(*words) == [0]
    assert [{"id": row["id"], "text": row["text"]} for row in read_file(output)] == rows


@pytest.mark.slow
@pytest.mark.parametrize("signum, name, n_ranks", [(SIGINT, "in.csv", 1), (SIGTERM, "-", 1), (SIGKILL, "in.csv", 2)])
def test_who_is_stopped_leaves_nothing_running_and_the_same_command_resumes(model, tmp_path, signum, name, n_ranks):
    """What stdin brought does not stay in the folder for temporary files, and no rank outlives its launcher."""
    lines, output = [f"{i},enak" for i in range(80)], tmp_path / "out.csv"
    (tmp_path / "in.csv").write_text("\n".join(["id,text", *lines]))
    path = name if name == "-" else tmp_path / name
    words = ["tests/killed.py", SCRIPT, *options_of(model, path, output, "--input_format", "csv")]
    command = [sys.executable, *words] if n_ranks == 1 else launch(*words, n_ranks=n_ranks)

    def start(**more: str) -> Program:
        with (tmp_path / "in.csv").open("rb") as stdin:
            return Program(*command, stdin=stdin, PYTHONPATH=str(ROOT), TMPDIR=str(tmp_path), **more)

    program = start(SMSA_SLOW="0.5")
    program.wait_for(lambda: read_finished(output))
    assert len(list(tmp_path.glob("smsa-*/stdin.csv"))) == (name == "-")
    program.send_signal(signum)
    text = program.end(60, -signum if signum == SIGKILL else 128 + signum)  # also of its ranks
    assert not output.exists() and "Traceback" not in text
    if signum != SIGKILL:
        assert "the same command resumes" in text
        assert "--engine ray" not in text and not list(tmp_path.glob("smsa-*"))
    start().end(120)
    assert [f"{row['id']},{row['text']}" for row in read_file(output)] == lines


POINTS = (  # in the order in which a job that is resumed each time comes by them; it has nine shards
    *("open .*job.json", "open .*part-.*", "os.rename .*part-.*", "open .*part-.*:2", "os.rename .*part-.*:3"),
    *("open .*part-.*:3", "os.rename .*part-.*:4", "open .*part-.*:3", "open .*part-.*:6"),  # the last while it merges
    *("open .*merged.*", "open .*summary.*", "os.rename .*merged.*", "shutil.rmtree .*shards"),
)


@pytest.mark.slow(900)
@pytest.mark.parametrize("n_ranks, points, n_at_points, target", [
    (1, POINTS, 12, "out.csv"), (2, POINTS[1:9:2], 3, "out.parquet"),
])  # fmt: skip
def test_after_kills_at_any_moment_every_row_is_there_once(model, tmp_path, n_ranks, points, n_at_points, target):
    """At points of one rank, and of all ranks by the clock."""
    rows = [{"id": str(i), "text": HOSTILE[i % len(HOSTILE)]} for i in range(70)]
    write_file(tmp_path / "in.csv", rows)

    def run_and_kill(output: Path, kill: str | float | None, n_ranks: int = n_ranks) -> bool:
        """Run to the end, or to a kill at a point, or so many seconds after it began; return whether it ended well."""
        by_clock = isinstance(kill, float)
        more = {"seconds": kill, "SMSA_SLOW": "0.2"} if by_clock else {"SMSA_KILL": f"any {kill}"}
        return not any(predict(model, tmp_path / "in.csv", output, n_ranks=n_ranks, **more))

    assert run_and_kill(tmp_path / target, None, n_ranks=1), FORKS.printed
    expected = read_file(tmp_path / target)
    assert [{"id": row["id"], "text": row["text"]} for row in expected] == rows
    clock, n_jobs, killed = random.Random(42), 0, []
    for kill in [*points, *(clock.uniform(0, 2) for _ in range(6)), None]:
        output = tmp_path / str(n_jobs) / target
        output.parent.mkdir(exist_ok=True)
        finished = read_finished(output)
        has_ended = run_and_kill(output, kill)
        if output.exists():
            assert read_file(output) == expected
        else:
            assert not has_ended and finished.items() <= read_finished(output).items()  # none was written again
        if has_ended:
            assert not Path(f"{output}.shards").exists()
            n_jobs += 1
        else:
            killed.append(type(kill))
    assert has_ended and killed.count(str) >= n_at_points and killed.count(float) >= 4


MEASURE = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
MEASURE += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


@pytest.mark.slow(1200)
@pytest.mark.parametrize("suffix, backend", [("csv", "torch"), ("jsonl.gz", "openvino"), ("parquet", "torch")])
def test_memory_does_not_grow_with_the_input(model, tmp_path, suffix, backend):
    """Each row is 3 KiB, so that whoever kept the rows of "long", even packed, would need 94 MiB more."""
    peaks = {}
    for name, n_rows, long_text in (("short", 8_000, ""), ("long", 40_000, ""), ("wide", 8_000, "enak " * 2_000_000)):
        path = tmp_path / f"{name}.{suffix}"
        rows = [{"id": str(i), "text": f"pergi ke pasar {i}", "note": f"{i:3072}"} for i in range(n_rows)]
        write_file(path, [*rows, {"id": "long", "text": long_text, "note": ""}])
        output = tmp_path / f"{name}.out.{suffix}"
        words = [*COMMAND, *options_of(model, path, output, "--backend", backend)]
        # a process counts its parent's peak as its own, so let a small one start it
        printed = run(sys.executable, "-c", MEASURE, *words, timeout=1100)
        assert read_json(Path(f"{output}.summary.json"))["read"] == n_rows + 1
        peaks[name] = int(printed.split()[0])  # KiB; what follows is the log
    # allocators' own reserves still grow by up to 50 MiB from "short" to "long", and then no more
    assert peaks["long"] < peaks["short"] + 75 * 1024, peaks
    assert peaks["wide"] < peaks["short"] + 200 * 1024, peaks
