"""Real runs of scripts/finetune.py, really killed and signalled: gone on with, their result is that of one in peace."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, SAMPLE_DIR, TINY_ROWS, make_model, make_tokenizer

SINGLE, DOUBLE = "accelerate_config.yaml", "configs/accelerate/cpu.yaml"
WORKER = str(ROOT / "tests" / "training" / "kill_training.py")
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """Options of a run with dropout that takes a second, is best after epoch 3 and stops early after epoch 5."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model(dropout=0.3, seed=1).save_pretrained(folder / "encoder")
    make_tokenizer().save_pretrained(folder / "encoder")
    for split, n_rows in (("train", 37), ("valid", 20), ("test", 7)):
        rows = [(TINY_ROWS[i * 5 % 7][0] + " enak" * (i % 4), TINY_ROWS[i * 5 % 7][1]) for i in range(n_rows)]
        lines = "".join(f"{text}\t{label}\n" for text, label in rows)
        (folder / f"{split}_preprocess.tsv").write_text(lines, encoding="utf-8")
    return [
        *("--model_name_or_path", str(folder / "encoder"), "--data_dir", str(folder), "--max_length", "64"),
        *("--learning_rate", "1e-2", "--lr_gamma", "0.7", "--early_stopping_patience", "2", "--num_train_epochs", "9"),
        *("--per_device_train_batch_size", "8", "--precision", "no", "--num_threads", "1"),
    ]


# A run that takes several seconds, so that a moment can be chosen within it.
LONG = [
    *("recipes/quickstart.yaml", "--data_dir", str(SAMPLE_DIR), "--max_length", "8", "--precision", "no"),
    *("--model_name_or_path", "scratch", "--num_train_epochs", "8", "--early_stopping_patience", "0"),
    *("--num_threads", "1"),
]


SHORT = [*LONG, "--num_train_epochs", "6"]


class Server:
    """Runs the script in forks of one process that has imported everything."""

    def __init__(self, log: Path):
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, WORKER, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, options, output_dir, **job) -> int:
        """Run it once with --resume auto; get the exit status."""
        return self.run_copies([*options, "--resume", "auto"], output_dir, **job)[0]

    def run_copies(self, options, output_dir, **job) -> list[int]:
        options = [*options, "--output_dir", str(output_dir)]
        self.process.stdin.write(json.dumps({"options": options, "log": str(self.log), **job}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("log") / "log.txt")
    yield server
    server.process.stdin.close()
    assert server.process.wait(60) == 0


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != "zombie"
    except psutil.NoSuchProcess:
        return False


MADE_WHEN_IT_WAS = {"run.json", "README.md"}  # they say how long it took


def result(output_dir: Path) -> dict:
    """Get sha256 of all that must be equal: the outputs; weights, optimiser, random states of the last checkpoint."""
    last = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = [path for path in output_dir.iterdir() if path.is_file() and path.name not in MADE_WHEN_IT_WAS]
    files += [path for path in last.iterdir() if path.suffix in (".safetensors", ".pt", ".pth")]
    hashes = {str(path.relative_to(output_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    state = json.loads((last / "trainer_state.json").read_text())
    n_evaluations = sum("eval_f1" in entry for entry in state["log_history"])
    assert {"model.safetensors", "history.csv", "history.png", "metrics.json", "predictions_test.csv"} < hashes.keys()
    assert {f"{last.name}/optimizer.pt", f"{last.name}/scheduler.pt"} < hashes.keys()
    return hashes | {"evaluations": n_evaluations, "stopped at": state["global_step"], "best": state["best_metric"]}


def assert_nothing_is_left_over(output_dir: Path) -> None:
    names = {path.name for path in output_dir.iterdir()}
    assert not {name for name in names if name.startswith((".", "damaged")) or name == "run.lock"}, names
    assert len([name for name in names if name.startswith("checkpoint-")]) <= 2


def test_killed_at_every_point_one_process(tiny, server, tmp_path):
    """At every kind of touch of the folder: each file of a save, renames, rotation, the best model, the outputs."""
    record = tmp_path / "points.txt"
    assert server.run(tiny, tmp_path / "plain", record=str(record)) == 0, server.log.read_text()[-3000:]
    expected = result(tmp_path / "plain")
    assert (expected["stopped at"], expected["evaluations"]) == (25, 5)
    points = list(dict.fromkeys(record.read_text().splitlines()))
    for piece in (
        *("wrote weights", "wrote optimizer.pt", "wrote rng_state.pth"),
        *("open /.staging/checkpoint-#/trainer_state.json", "open /.staging/checkpoint-#/manifest.json"),
        *("os.rename /.staging/checkpoint-#", "shutil.rmtree /checkpoint-#"),
        *("loaded the best model", "os.rename /.staging/model.safetensors", "os.rename /.staging/run.json"),
    ):
        assert piece in points, f"{piece} is not among the points {points}"

    output_dir, n_kills, n_finished = tmp_path / "run", 0, 0
    for point in points:
        status = server.run(tiny, output_dir, kill=point)
        if status == -signal.SIGKILL:
            n_kills += 1
            continue
        assert status == 0, server.log.read_text()[-3000:]
        assert result(output_dir) == expected  # the run was past this point: it ended, and another one begins
        n_finished += 1
        output_dir = tmp_path / f"run{n_finished}"
        n_kills += server.run(tiny, output_dir, kill=point) == -signal.SIGKILL
    assert server.run(tiny, output_dir) == 0, server.log.read_text()[-3000:]
    assert result(output_dir) == expected
    assert_nothing_is_left_over(output_dir)
    assert n_kills >= 30 and n_kills >= len(points) - 3, f"{n_kills} kills at {len(points)} points"


def test_killed_at_random_times_one_process(server, tmp_path):
    started = time.monotonic()
    assert server.run(LONG, tmp_path / "plain") == 0, server.log.read_text()[-3000:]
    seconds = time.monotonic() - started
    expected = result(tmp_path / "plain")
    moments, n_kills, n_finished, status = random.Random(0), 0, 0, None
    while n_kills < 6 or status != 0:
        status = server.run(LONG, tmp_path / str(n_finished), after=moments.uniform(0.15, 0.7) * seconds)
        n_kills += status == -signal.SIGKILL
        if status != -signal.SIGKILL:
            assert status == 0, server.log.read_text()[-3000:]
            assert result(tmp_path / str(n_finished)) == expected
            assert_nothing_is_left_over(tmp_path / str(n_finished))
            n_finished += 1


class Launch:
    """A real `accelerate launch` in a session of its own, and all the processes that come from it."""

    def __init__(self, *options: str, config: str, script: str = "scripts/finetune.py", **environment: str):
        self.launcher = subprocess.Popen(
            ["accelerate", "launch", "--config_file", config, script, *options], cwd=ROOT, start_new_session=True,
            env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.family: dict[int, psutil.Process] = {}
        self.text = ""

    def look(self) -> list[psutil.Process]:
        """Get the processes of the script that are there now."""
        try:
            children = psutil.Process(self.launcher.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        self.family |= {child.pid: child for child in children}
        return [child for child in children if child.is_running()]

    def wait_for(self, is_there, seconds: float = 120) -> None:
        """Wait until `is_there()`, noting all processes meanwhile."""
        deadline = time.monotonic() + seconds
        while not is_there():
            self.look()
            if self.launcher.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it did not come: {self.end()[1][-3000:]}")
            time.sleep(0.02)
        self.look()

    def kill(self) -> None:
        """SIGKILL to all of them."""
        for process in (psutil.Process(self.launcher.pid), *self.look()):
            with contextlib.suppress(psutil.NoSuchProcess):  # one may have ended meanwhile, by itself or with another
                process.kill()

    def end(self, seconds: float = 200) -> tuple[int, str]:
        """Wait for the end of all; get the launcher's status and what was printed. Nothing may be left over."""
        try:
            self.text += self.launcher.communicate(timeout=seconds)[0]  # ends when the last one that writes has ended
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"it did not end: {self.launcher.communicate()[0][-3000:]}")
        deadline = time.monotonic() + 2  # one that was killed closes its files a moment before it is gone
        while left := [process for process in self.family.values() if is_alive(process)]:
            assert time.monotonic() < deadline, f"left over: {left}"
            time.sleep(0.05)
        return self.launcher.returncode, self.text


def launch(options, output_dir, config, resume=True, **kwargs) -> Launch:
    words = [*options, "--output_dir", str(output_dir), *(["--resume", "auto"] if resume else [])]
    return Launch(*words, config=config, **kwargs)


@pytest.fixture(scope="module")
def patient(tiny) -> list[str]:
    """Options of the tiny run, for two processes: it goes on long enough to remove a checkpoint while it trains."""
    return [*tiny, "--early_stopping_patience", "4"]


@pytest.fixture(scope="module")
def two_in_peace(patient, tmp_path_factory):
    """The result of that run."""
    output_dir = tmp_path_factory.mktemp("two") / "run"
    status, text = launch(patient, output_dir, DOUBLE).end()
    assert status == 0, text[-3000:]
    found = result(output_dir)
    assert found["evaluations"] >= 4, "the fourth checkpoint is the first for which another is removed"
    return found


INJECTED = [
    "0 wrote weights",
    "1 wrote rng_state_#.pth",
    "0 open /.staging/checkpoint-#/trainer_state.json",
    "0 os.rename /.staging/checkpoint-#",
    "0 shutil.rmtree /checkpoint-#",
    "1 loaded the best model",
    "0 os.rename /.staging/run.json",
]


def test_killed_on_two_processes(patient, two_in_peace, tmp_path):
    """One of them at a point; both and the launcher at once at a random moment."""
    moments = random.Random(1)
    for point in INJECTED:
        run = launch(patient, tmp_path / "run", DOUBLE, script=WORKER, SMSA_KILL=point)
        status, text = run.end()
        assert status != 0 and "Signal 9 (SIGKILL)" in text, text[-3000:]
        assert "another rank is gone" in text and 'finetune.py", line' not in text
    assert launch(patient, tmp_path / "run", DOUBLE).end()[0] == 0
    assert result(tmp_path / "run") == two_in_peace
    assert_nothing_is_left_over(tmp_path / "run")

    assert launch(LONG, tmp_path / "plain", DOUBLE).end()[0] == 0
    output_dir = tmp_path / "random"
    for n_checkpoints in (1, 2, 2):
        run = launch(LONG, output_dir, DOUBLE)
        run.wait_for(lambda: len(run.look()) >= 2 and len(list(output_dir.glob("checkpoint-*"))) >= n_checkpoints)
        time.sleep(moments.uniform(0, 0.8))
        assert len(run.look()) >= 2 and not (output_dir / "run.json").exists()
        run.kill()
        run.end()
    assert launch(LONG, output_dir, DOUBLE).end()[0] == 0
    assert result(output_dir) == result(tmp_path / "plain")


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory):
    """Results of the long run: on one process and on two."""
    results = {}
    for config in (SINGLE, DOUBLE):
        output_dir = tmp_path_factory.mktemp("peace") / "run"
        status, text = launch(SHORT, output_dir, config).end()
        assert status == 0, text[-3000:]
        results[config] = result(output_dir)
    return results


SIGNALS = {
    "SIGTERM to the launcher": (SINGLE, "launcher", signal.SIGTERM),
    "SIGINT to the launcher": (SINGLE, "launcher", signal.SIGINT),
    "Ctrl-C in a terminal": (SINGLE, "group", signal.SIGINT),
    "SIGTERM to the trainer": (SINGLE, "trainer", signal.SIGTERM),
    "SIGKILL to the launcher": (SINGLE, "launcher", signal.SIGKILL),
    "SIGTERM to the launcher of two": (DOUBLE, "launcher", signal.SIGTERM),
    "SIGINT to the launcher of two": (DOUBLE, "launcher", signal.SIGINT),
    "SIGTERM to one of two": (DOUBLE, "trainer", signal.SIGTERM),
    "SIGKILL to the launcher of two": (DOUBLE, "launcher", signal.SIGKILL),
}


@pytest.mark.parametrize("config, to, signum", SIGNALS.values(), ids=SIGNALS)
def test_a_signal_leaves_a_checkpoint_at_the_next_step(request, in_peace, tmp_path, config, to, signum):
    output_dir = tmp_path / "run"
    steps_an_epoch = 18 if config == SINGLE else 9
    run = launch(SHORT, output_dir, config)
    run.wait_for((output_dir / f"checkpoint-{steps_an_epoch}").exists)
    time.sleep(0.5)
    at = time.monotonic()
    if to == "group":
        os.killpg(run.launcher.pid, signum)
    elif to == "launcher":
        run.launcher.send_signal(signum)
    else:
        run.look()[-1].send_signal(signum)
    status, text = run.end(seconds=10)
    assert status != 0
    steps = sorted(int(path.name.split("-")[1]) for path in output_dir.glob("checkpoint-*"))
    state = json.loads((output_dir / f"checkpoint-{steps[-1]}" / "trainer_state.json").read_text())
    assert sum("eval_f1" in entry for entry in state["log_history"]) == steps[-1] // steps_an_epoch
    if "one of two" not in request.node.name:  # the first process speaks, if it was told
        assert "stopping after this step, with a checkpoint" in text
    assert "with --resume auto resumes from the last checkpoint" in text
    assert time.monotonic() - at < 10  # a promise to those whose machine is taken away, not a speed

    run = launch(SHORT, output_dir, config)
    status, text = run.end()
    assert status == 0, text[-3000:]
    assert f"Resumes from {output_dir}/checkpoint-{steps[-1]}" in text
    assert result(output_dir) == in_peace[config]


def test_the_exit_status_of_the_trainer_names_the_signal(tmp_path):
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
        output_dir = tmp_path / str(status)
        words = [sys.executable, "scripts/finetune.py", *LONG, "--output_dir", str(output_dir)]
        trainer = subprocess.Popen(words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not (output_dir / "checkpoint-18").exists() and trainer.poll() is None:
            time.sleep(0.05)
        trainer.send_signal(signum)
        text = trainer.communicate(timeout=60)[1].decode()
        assert trainer.returncode == status, text
        assert "Traceback" not in text


def test_of_two_runs_at_once_exactly_one_trains(tiny, server, tmp_path):
    server.log.write_text("")
    for i in range(20):
        assert sorted(server.run_copies(tiny, tmp_path / str(i), copies=2)) == [0, 1], server.log.read_text()[-3000:]
        assert (tmp_path / str(i) / "run.json").exists()
    refusals = re.findall(r"error: \S+/\d+ is (?:in use by another run|not empty \()", server.log.read_text())
    assert len(refusals) == 20
    assert server.log.read_text().count("(Epoch 5) VALID") == 20


def test_no_secret_is_written_or_shown(tiny, tmp_path):
    token = "hf_" + "canary" * 5
    run = launch([*tiny, "--num_train_epochs", "2"], tmp_path / "run", SINGLE, HF_TOKEN=token)
    words = []
    while run.launcher.poll() is None:
        for process in run.look():
            with contextlib.suppress(psutil.Error):  # it may end just now
                words += process.cmdline()
        time.sleep(0.2)
    status, text = run.end()
    assert status == 0, text[-3000:]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 20 and words
    assert not any(b"canary" in path.read_bytes() for path in files)
    assert "canary" not in text and not any("canary" in word for word in words)
