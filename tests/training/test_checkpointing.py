"""What is in the output folder of a run, who may write there, and which settings may change."""

import contextlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from smsa.files import publish
from smsa.training import checkpointing as checkpoints
from smsa.training.checkpointing import (
    Checkpoints,
    DamagedCheckpointError,
    NotWrittenError,
    require_empty,
    sole_run,
)
from smsa.training.settings import require_same_settings

SETTINGS = {"learning_rate": 1e-5, "num_train_epochs": 3, "train_data": "aa"}


@pytest.fixture
def commit(tmp_path):
    """A function that leaves a checkpoint as a run would, and gets its folder."""

    def commit(step, best_step=None, settings=SETTINGS, environment=None):
        staged = tmp_path / "run" / ".staging" / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.pt", "rng_state.pth"):
            (staged / name).write_text(f"{name} after {step} steps")
        Checkpoints(tmp_path / "run", settings, environment).commit(staged, step, best_step, n_processes=1)
        return tmp_path / "run" / f"checkpoint-{step}"

    return commit


def steps_in(folder) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def test_the_newest_the_one_before_and_their_best_are_kept(commit, tmp_path):
    kept = []
    for step, best in ((5, 5), (10, 5), (15, 5), (20, 20), (23, 20), (25, 25), (30, 25)):
        commit(step, best)
        kept.append(steps_in(tmp_path / "run"))
    assert kept == [[5], [5, 10], [5, 10, 15], [5, 15, 20], [20, 23], [20, 23, 25], [25, 30]]
    Checkpoints(tmp_path / "run").rotate(n_kept=1)
    assert steps_in(tmp_path / "run") == [25, 30]
    assert max(map(len, kept)) < checkpoints.N_ON_DISK


def test_checkpoints_are_found_by_number_and_nothing_else_is_taken_for_one(commit, tmp_path):
    assert Checkpoints(tmp_path / "run").choose_newest() is None
    commit(9)
    commit(10)
    for name in ("checkpoint-11.tmp", "checkpoint-", "checkpoint-x", ".removed-checkpoint-12", "checkpoint-+13"):
        (tmp_path / "run" / name).mkdir()
    assert Checkpoints(tmp_path / "run").choose_newest() == tmp_path / "run" / "checkpoint-10"


def test_each_change_of_a_manifest_is_found(commit, tmp_path):
    path = commit(5) / "manifest.json"
    whole = path.read_bytes()
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(DamagedCheckpointError, match="checkpoint-5/manifest.json is not what was written"):
            checkpoints.verify(path.parent)
    for content in (b"", b"[]", b"{}", b"3", whole[:-1], whole + b"\n"):
        path.write_bytes(content)
        with pytest.raises(DamagedCheckpointError):
            checkpoints.verify(path.parent)
    path.write_bytes(whole)
    assert checkpoints.verify(path.parent)["settings"] == SETTINGS


def test_damaged_checkpoints_are_set_aside_and_none_is_overwritten(commit, tmp_path):
    older = commit(4)
    for _ in range(2):
        (commit(5) / "optimizer.pt").write_text("x")
        assert Checkpoints(tmp_path / "run").choose_newest() == older
    names = {path.name for path in (tmp_path / "run").glob("damaged-*")}
    assert names == {"damaged-checkpoint-5", "damaged-checkpoint-5.2"}
    shutil.rmtree(older)
    with pytest.raises(DamagedCheckpointError, match="those there were damaged"):
        start(tmp_path, SETTINGS)


def test_a_process_whose_random_state_is_missing_is_an_error(commit, tmp_path):
    staged = tmp_path / "run" / "staged"
    staged.mkdir(parents=True)
    (staged / "rng_state_0.pth").touch()
    with pytest.raises(OSError, match="1 of 2 processes .* must be on a disk all share"):
        Checkpoints(tmp_path / "run").commit(staged, 5, None, n_processes=2)
    assert steps_in(tmp_path / "run") == []


def start(tmp_path, settings, allowed=()):
    return Checkpoints(tmp_path / "run", settings).find_start(tuple(allowed), changeable=("num_train_epochs",))


def test_changed_settings_are_refused_by_name_unless_allowed(commit, tmp_path):
    newest = commit(5)
    assert start(tmp_path, SETTINGS) == (newest, False)
    longer = SETTINGS | {"num_train_epochs": 5}
    with pytest.raises(
        ValueError, match="num_train_epochs was 3, is 5. Give .* before, allow it by --allow_changes num_train"
    ):
        start(tmp_path, longer)
    assert start(tmp_path, longer, ["num_train_epochs"]) == (newest, False)
    with pytest.raises(
        ValueError,
        match="learning_rate was 1e-05, is 1e-06; num_train_epochs was 3, is 5. Give them as before, or start",
    ):
        start(tmp_path, longer | {"learning_rate": 1e-6})
    with pytest.raises(ValueError, match="learning_rate was 1e-05, is 1e-06. Give them as before, or start"):
        start(tmp_path, longer | {"learning_rate": 1e-6}, ["num_train_epochs"])
    with pytest.raises(ValueError, match="new was None, is 1"):
        start(tmp_path, SETTINGS | {"new": 1})
    assert start(tmp_path, SETTINGS | {"new": 0.0, "newer": None}) == (newest, False)  # of a later version, and off
    with pytest.raises(ValueError, match="num_train_epochs was 3, is None"):
        start(tmp_path, {name: value for name, value in SETTINGS.items() if name != "num_train_epochs"})


def test_files_of_the_encoder_are_compared_where_both_know_them(commit, tmp_path):
    """A name on the Hub has none, and an earlier version of smsa knew none."""
    newest = commit(5)
    known = SETTINGS | {"sha256 of the encoder's config.json": "a"}
    assert start(tmp_path, known) == (newest, False)
    require_same_settings(known, SETTINGS, (), ())
    with pytest.raises(ValueError, match="sha256 of the encoder's config.json was a, is b. Give them as before"):
        require_same_settings(known, SETTINGS | {"sha256 of the encoder's config.json": "b"}, (), ())


def test_what_lies_there_of_the_run_needs_no_space_again(commit, tmp_path, monkeypatch):
    checkpoint = commit(5)
    present = sum(file.stat().st_size for file in checkpoint.iterdir())
    needed = 4 * 1000 + 300
    for free, is_enough in ((needed - present, True), (needed - present - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: shutil._ntuple_diskusage(0, 0, free))
        with contextlib.nullcontext() if is_enough else pytest.raises(OSError, match="the run needs"):
            Checkpoints(checkpoint.parent).require_space(1000, 300)


def test_the_file_that_says_all_is_there_goes_first_and_comes_last(tmp_path, monkeypatch):
    """So that at no moment it stands beside files of another result."""
    (tmp_path / "staging").mkdir()
    for name in ("a.csv", "model", "run.json", "z.csv"):
        (tmp_path / "staging" / name).touch()
    (tmp_path / "run.json").write_text("of before")
    seen, replace = [], os.replace

    def watch(path, target):
        seen.append((target.name, (tmp_path / "run.json").exists()))
        replace(path, target)

    monkeypatch.setattr(os, "replace", watch)
    publish(tmp_path / "staging", tmp_path, last="run.json")
    assert sorted(seen[:3]) == [("a.csv", False), ("model", False), ("z.csv", False)]
    assert seen[3:] == [("run.json", False)]


def test_a_finished_run_is_finished_until_a_setting_is_allowed_to_change(commit, tmp_path):
    newest = commit(5)
    record = tmp_path / "run" / "run.json"
    record.write_text(json.dumps({"settings": SETTINGS, "outputs": []}))
    assert start(tmp_path, SETTINGS | {"new": 0.0}) == (None, True)
    assert start(tmp_path, SETTINGS) == (None, True)
    longer = SETTINGS | {"num_train_epochs": 5}
    with pytest.raises(ValueError, match="num_train_epochs was 3, is 5"):
        start(tmp_path, longer)
    assert record.exists()
    assert start(tmp_path, longer, ["num_train_epochs"]) == (newest, False)
    assert record.exists()  # until the new result is there
    for content in (b"", b"[]", b"{}"):
        record.write_bytes(content)
        with pytest.raises(ValueError, match="run.json is not what a finished run leaves"):
            start(tmp_path, SETTINGS)


def test_a_finished_run_that_lost_an_output_goes_on_from_its_checkpoint(commit, tmp_path, caplog):
    newest = commit(5)
    (tmp_path / "run" / "metrics.json").touch()
    outputs = ["metrics.json", "model.safetensors"]
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": SETTINGS, "outputs": outputs}))
    assert start(tmp_path, SETTINGS) == (newest, False)
    assert "has lost model.safetensors: the result is written again" in caplog.text
    (tmp_path / "run" / "model.safetensors").touch()
    assert start(tmp_path, SETTINGS) == (None, True)


def test_a_run_that_was_extended_goes_on_without_being_allowed_again(commit, tmp_path):
    commit(5)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"settings": SETTINGS, "outputs": []}))
    longer = SETTINGS | {"num_train_epochs": 5}
    newest = commit(7, settings=longer)  # interrupted on the way
    assert start(tmp_path, longer) == (newest, False)
    assert start(tmp_path, SETTINGS) == (None, True)  # the result of before is still there


def test_a_folder_without_checkpoints_is_started_in_only_if_it_is_empty(tmp_path):
    (tmp_path / "run" / ".staging").mkdir(parents=True)
    assert start(tmp_path, SETTINGS) == (None, False)
    (tmp_path / "run" / "thesis.docx").touch()
    with pytest.raises(FileExistsError, match=r"is not empty \(thesis.docx\): there is no checkpoint to go on from"):
        start(tmp_path, SETTINGS)


def test_another_machine_is_told_but_not_refused(commit, tmp_path, caplog):
    newest = commit(5, environment={"n_threads": 2, "torch": "2.13.0"})
    now = Checkpoints(tmp_path / "run", SETTINGS, {"n_threads": 8, "torch": "2.13.0"})
    assert now.find_start() == (newest, False)
    assert "last bits of the result may differ" in caplog.text and "n_threads was 2, is 8." in caplog.text


def test_what_was_being_written_or_removed_is_cleared_away(commit, tmp_path):
    commit(5)
    for name in (".staging/checkpoint-10", ".removed-checkpoint-1"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "model.safetensors").touch()
    with sole_run(tmp_path / "run", resume=True):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-5", "run.lock", "running.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint-5"}


def test_an_output_folder_must_be_empty(tmp_path):
    require_empty(tmp_path)
    require_empty(tmp_path / "new")
    (tmp_path / "run.lock").touch()
    require_empty(tmp_path)
    (tmp_path / "metrics.json").touch()
    with pytest.raises(
        FileExistsError, match=r"is not empty \(metrics.json\): go on with it by --resume auto, or choose"
    ):
        require_empty(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"), sole_run(tmp_path / "metrics.json", resume=False):
        pass


def test_a_run_that_fails_before_it_has_anything_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), sole_run(tmp_path / "run", resume=False):
        assert (tmp_path / "run").is_dir()
        raise ValueError
    assert not (tmp_path / "run").exists()


HOLD = """
import sys, time
from smsa.training.checkpointing import sole_run
with sole_run(sys.argv[1], resume=False):
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def first_run(tmp_path):
    """Another process that is at work in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("resume", [True, False])
def test_the_second_run_names_the_first_and_touches_nothing(first_run, tmp_path, resume):
    (tmp_path / "run" / "checkpoint-5").mkdir()
    before = (tmp_path / "run" / "running.json").read_bytes()
    with pytest.raises(FileExistsError, match=f"in use by another run, process {first_run.pid} on {platform.node()}, "):
        with sole_run(tmp_path / "run", resume):
            pass
    assert (tmp_path / "run" / "running.json").read_bytes() == before


def test_the_lock_of_a_dead_process_is_taken_over_with_a_note(first_run, tmp_path, caplog):
    first_run.kill()
    first_run.wait()
    caplog.set_level("INFO")
    with sole_run(tmp_path / "run", resume=False):  # it had nothing to keep
        assert json.loads((tmp_path / "run" / "running.json").read_text())["pid"] == os.getpid()
    assert f"did not end by itself (process {first_run.pid} on" in caplog.text


def test_a_run_that_has_just_started_is_waited_for_to_say_who_it_is(tmp_path):
    """Its lock is taken, and the file beside it is still that of a run that died."""
    (tmp_path / "run").mkdir()
    died = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    owner = {"pid": int(died.stdout), "host": platform.node(), "started": "yesterday"}
    (tmp_path / "run" / "running.json").write_text(json.dumps(owner))

    def write_down():
        (tmp_path / "run" / "running.json").write_text(json.dumps(owner | {"pid": os.getpid(), "started": "today"}))

    with FileLock(tmp_path / "run" / "run.lock"):
        threading.Timer(0.3, write_down).start()
        with pytest.raises(FileExistsError, match=f"process {os.getpid()} on .*, started today"):
            with sole_run(tmp_path / "run", resume=True):
                pass


def _race(folder, at, results):
    time.sleep(max(0, at - time.time()))
    try:
        with sole_run(folder, resume=False):
            time.sleep(0.3)
            (folder / "checkpoint-1").mkdir(exist_ok=True)
            results.put("trained")
    except FileExistsError as error:
        results.put(str(error))


def test_of_runs_that_start_at_once_exactly_one_is_at_work(tmp_path):
    context = multiprocessing.get_context("fork")
    for i in range(20):
        results, at = context.Queue(), time.time() + 0.05
        racers = [context.Process(target=_race, args=(tmp_path / str(i), at, results)) for _ in range(3)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        outcomes = [results.get() for _ in racers]
        assert outcomes.count("trained") == 1, outcomes
        assert all("in use by another run" in o or "is not empty" in o for o in outcomes if o != "trained"), outcomes


def test_a_full_disk_is_said_in_one_sentence(tmp_path):
    with pytest.raises(
        NotWrittenError, match=r"checkpoint-5 could not be written to .*: Error while serializing \(.* MB"
    ):
        with checkpoints.explain_failure("checkpoint-5", tmp_path):
            raise RuntimeError("Error while serializing\nmore of it")
    with pytest.raises(NotWrittenError, match="is gone"):
        with checkpoints.explain_failure("checkpoint-5", tmp_path / "vanished"):
            raise OSError("x")


def test_a_lock_that_is_free_but_there_is_no_obstacle(tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / "run.lock"):
        pass
    with sole_run(tmp_path / "run", resume=False):
        pass
