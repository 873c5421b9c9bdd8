"""Real runs of scripts/finetune.py, really killed and signalled: resumed, their result is that of one in peace.

In none of them is the token of the environment written to the output folder, shown, or passed on in a command line.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from conftest import TINY_ROWS, contents, read_json, save_tiny
from killed import run_script
from processes import Forks, Program, launch

from smsa.files import hash_file
from smsa.training.checkpointing import list_checkpoints

SCRIPT = "scripts/finetune.py"
ENVIRONMENT = {"HF_TOKEN": "hf_" + "canary" * 5, "OMP_NUM_THREADS": "1"}
FORKS = Forks(**ENVIRONMENT)
pytestmark = pytest.mark.slow(1200)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """Options of a run with dropout that takes a second, is best after epoch 3 and stops early after epoch 5."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder / "encoder", dropout=0.3, seed=1)
    for split, n_rows in (("train", 37), ("valid", 20), ("test", 7)):
        rows = [(TINY_ROWS[i * 5 % 7][0] + " enak" * (i % 4), TINY_ROWS[i * 5 % 7][1]) for i in range(n_rows)]
        lines = "".join(f"{text}\t{label}\n" for text, label in rows)
        (folder / f"{split}_preprocess.tsv").write_text(lines, encoding="utf-8")
    options = "--max_length 64 --learning_rate 1e-2 --lr_gamma 0.7 --early_stopping_patience 2 --num_train_epochs 9 "
    options += "--per_device_train_batch_size 8 --precision no --num_threads 1"
    return [*options.split(), "--model_name_or_path", str(folder / "encoder"), "--data_dir", str(folder)]


# A run that takes several seconds, so that a moment can be chosen within it.
LONG = "recipes/quickstart.yaml --model_name_or_path scratch --num_train_epochs 6 --early_stopping_patience 0".split()
LONG += "--max_length 8 --precision no --num_threads 1 --train_sampling_strategy group_by_length".split()


def is_killed(options, output_dir, **more) -> bool:
    """Return whether a rank of a run in forks was killed; else it must have finished."""
    statuses = FORKS.run(run_script, SCRIPT, *options, "--resume", "auto", "--output_dir", str(output_dir), **more)
    assert not any(statuses) or -signal.SIGKILL in statuses, FORKS.printed[-3000:]
    assert "canary" not in FORKS.printed
    return any(statuses)


MADE_WHEN_IT_WAS = {"run.json", "README.md"}  # they say how long it took


def result(output_dir: Path) -> dict:
    """Return sha256 of all that must be equal: outputs; weights, optimiser, random states of the last checkpoint."""
    assert not any(b"canary" in content for content in contents(output_dir).values())
    names = {path.name for path in output_dir.iterdir()}
    assert not {name for name in names if name.startswith((".", "damaged")) or name == "run.lock"}, names
    assert len([name for name in names if name.startswith("checkpoint-")]) <= 2
    last, *_ = list_checkpoints(output_dir)
    files = [path for path in output_dir.iterdir() if path.is_file() and path.name not in MADE_WHEN_IT_WAS]
    files += [path for path in last.iterdir() if path.suffix in (".safetensors", ".pt", ".pth")]
    hashes = {str(path.relative_to(output_dir)): hash_file(path) for path in files}
    assert {"model.safetensors", "history.csv", "metrics.json", "predictions_test.csv"} < hashes.keys()
    assert {f"{last.name}/optimizer.pt", f"{last.name}/scheduler.pt"} < hashes.keys()
    state = read_json(last / "trainer_state.json")
    n_evaluations = sum("eval_f1" in entry for entry in state["log_history"])
    return hashes | {"evaluations": n_evaluations, "stopped at": state["global_step"], "best": state["best_metric"]}


def test_killed_at_every_point_one_process(tiny, tmp_path):
    """At every kind of touch of the folder: each file of a save, renames, rotation, the best model, the outputs."""
    record = tmp_path / "points.txt"
    assert not is_killed(tiny, tmp_path / "plain", SMSA_RECORD=str(record))
    expected = result(tmp_path / "plain")
    assert (expected["stopped at"], expected["evaluations"]) == (25, 5)
    points = list(dict.fromkeys(record.read_text().splitlines()))
    needed = {"wrote weights", "wrote optimizer.pt", "wrote rng_state.pth", "loaded the best model"}
    needed |= {f"open /.staging/checkpoint-#/{name}" for name in ("trainer_state.json", "manifest.json.tmp")}
    needed |= {f"os.rename /.staging/{name}" for name in ("checkpoint-#", "model.safetensors", "run.json")}
    assert needed | {"shutil.rmtree /checkpoint-#"} <= set(points)

    output_dir, n_kills = tmp_path / "run", 0
    for point in points:
        was_killed = is_killed(tiny, output_dir, SMSA_KILL=f"0 {point}")
        if not was_killed:  # the run was past this point: it has ended, and another one begins
            assert result(output_dir) == expected
            shutil.rmtree(output_dir)
            was_killed = is_killed(tiny, output_dir, SMSA_KILL=f"0 {point}")
        n_kills += was_killed
    assert not is_killed(tiny, output_dir)
    assert result(output_dir) == expected
    assert n_kills >= 30 and n_kills >= len(points) - 3, f"{n_kills} kills at {len(points)} points"


class Launch(Program):
    """A real `accelerate launch`, and all the processes that come from it; the command line of none has the token."""

    def __init__(self, options, output_dir, n_ranks, script=(SCRIPT,), **environment):
        self.mark = {"STARTED_BY": str(output_dir)}  # handed down to each of them
        words = [*script, *options, "--resume", "auto", "--output_dir", output_dir]
        super().__init__(*launch(*words, n_ranks=n_ranks), **ENVIRONMENT | environment | self.mark)

    def processes(self) -> list[psutil.Process]:
        """Return those that are there now."""
        there = psutil.process_iter(["environ", "cmdline"])  # None of one that ends just now
        found = [process for process in there if (process.info["environ"] or {}).items() >= self.mark.items()]
        assert not any("canary" in " ".join(process.info["cmdline"] or ()) for process in found)
        return found

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def end(self, seconds: float = 300, status: int | None = None) -> str:
        """Nothing may be left over."""
        text = super().end(seconds, status)
        _, left = psutil.wait_procs(self.processes(), timeout=2)  # one that was killed is gone a moment later
        assert not left and "canary" not in text
        return text


INJECTED = ["0 wrote weights", "1 wrote rng_state_#.pth", "0 os.rename /.staging/checkpoint-#"]
INJECTED += ["1 loaded the best model", "0 os.rename /.staging/run.json"]


def test_one_of_two_processes_killed_at_points(tiny, tmp_path):
    """The first time in a launch, which is also the last command."""
    assert not is_killed(tiny, tmp_path / "plain", n_ranks=2)
    expected = result(tmp_path / "plain")
    for point in INJECTED:
        if point == INJECTED[0]:
            text = Launch(tiny, tmp_path / "run", 2, ("tests/killed.py", SCRIPT), SMSA_KILL=point).end(status=1)
            assert "Signal 9 (SIGKILL)" in text, text[-3000:]
        else:
            assert is_killed(tiny, tmp_path / "run", n_ranks=2, SMSA_KILL=point)
            text = FORKS.printed
        # at the last point the other rank has done its part already
        assert ("another rank has ended" in text or "run.json" in point) and 'finetune.py", line' not in text
    Launch(tiny, tmp_path / "run", 2).end(status=0)
    assert result(tmp_path / "run") == expected


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory) -> dict:
    """Results of the long run, on one process and on two."""
    one, two = tmp_path_factory.mktemp("one") / "run", tmp_path_factory.mktemp("two") / "run"
    assert not is_killed(LONG, one)
    assert not is_killed(LONG, two, n_ranks=2)
    for line in ("(Epoch 1) VALID LOSS:", "train: 274 texts"):
        assert FORKS.printed.count(line) == 1  # not by each rank
    return {1: result(one), 2: result(two)}


def test_killed_at_random_times_two_processes_and_their_launcher(in_peace, tmp_path):
    moments, output_dir = random.Random(1), tmp_path / "run"
    for n_checkpoints in (1, 2):
        run = Launch(LONG, output_dir, 2)
        run.wait_for(lambda: len(list(output_dir.glob("checkpoint-*"))) >= n_checkpoints and len(run.processes()) >= 3)
        time.sleep(moments.uniform(0, 0.8))
        assert len(run.processes()) >= 3 and not (output_dir / "run.json").exists()
        run.kill_all()
        run.end()
    assert not is_killed(LONG, output_dir, n_ranks=2)
    assert result(output_dir) == in_peace[2]


SIGNALS = {
    "SIGTERM to the launcher": (1, "launcher", signal.SIGTERM),
    "Ctrl-C in a terminal": (1, "group", signal.SIGINT),
    "SIGKILL to the launcher": (1, "launcher", signal.SIGKILL),
    "SIGTERM to the launcher of two": (2, "launcher", signal.SIGTERM),
    "SIGKILL to the launcher of two": (2, "launcher", signal.SIGKILL),
}


@pytest.mark.parametrize("n_ranks, to, signum", SIGNALS.values(), ids=SIGNALS)
def test_a_run_is_resumed_where_a_signal_has_ended_it(in_peace, tmp_path, n_ranks, to, signum):
    output_dir, steps_an_epoch = tmp_path / "run", 18 // n_ranks
    run = Launch(LONG, output_dir, n_ranks)
    run.wait_for((output_dir / f"checkpoint-{steps_an_epoch}").exists)
    time.sleep(0.5)
    os.killpg(run.pid, signum) if to == "group" else run.send_signal(signum)
    text = run.end(seconds=30)  # which clouds give a machine that is taken away
    assert run.returncode != 0 and not (output_dir / "run.json").exists()
    assert "Stopping after this step, with a checkpoint" in text
    assert "with --resume auto resumes from the last checkpoint" in text
    last, *_ = list_checkpoints(output_dir)
    state = read_json(last / "trainer_state.json")
    assert sum("eval_f1" in entry for entry in state["log_history"]) == state["global_step"] // steps_an_epoch

    assert not is_killed(LONG, output_dir, n_ranks=n_ranks)
    assert f"Resumes from {last}" in FORKS.printed
    assert result(output_dir) == in_peace[n_ranks]


def test_of_two_runs_at_once_exactly_one_trains(tiny, tmp_path):
    forks = Forks(**ENVIRONMENT)
    for i in range(4):
        options = [*tiny, "--resume", "auto", "--output_dir", str(tmp_path / str(i))]
        copies = [copy for _ in range(2) for copy in forks.start(run_script, SCRIPT, *options)]
        for copy in copies:
            copy.join()
        assert sorted(copy.exitcode for copy in copies) == [0, 1], forks.printed[-3000:]
        assert (tmp_path / str(i) / "run.json").exists()
    assert len(re.findall(r"error: \S+/\d+ is (?:in use by another run|not empty \()", forks.printed)) == 4
    assert forks.printed.count("(Epoch 5) VALID") == 4
