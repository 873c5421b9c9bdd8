"""Checkpoints are whole or absent, damage is named, a run goes on only under the same settings, one run a folder."""

import json
import multiprocessing
import shutil

import pytest
from filelock import FileLock

from smsa.errors import UserError
from smsa.files import STAGING
from smsa.training.checkpointing import (
    DamagedCheckpointError,
    commit,
    find_newest,
    find_start,
    list_checkpoints,
    sole_run,
    verify,
)

SETTINGS = {"learning_rate": 1e-3, "num_train_epochs": 3, "sha256 of train": "a"}


@pytest.fixture
def save(tmp_path):
    """A function that takes a checkpoint of some files after a step."""

    def save(step, best_step=None, settings=SETTINGS, environment=None):
        staging = tmp_path / "staging"
        staging.mkdir()
        (staging / "model.safetensors").write_bytes(b"weights %d" % step)
        (staging / "optimizer.pt").write_bytes(b"moments %d" % step)
        described = {"settings": settings, "environment": environment or {}, "world_size": 1}
        commit(staging, tmp_path / f"checkpoint-{step}", step=step, best_step=best_step, **described)

    return save


def steps_in(folder) -> list[int]:
    return [int(path.name.split("-")[1]) for path in list_checkpoints(folder)]


def test_checkpoints_are_found_by_number_and_nothing_else_is_taken_for_one(save, tmp_path):
    for step in (9, 100, 20):
        save(step)
    for name in ("checkpoint-x", "checkpoint-7.tmp", "damaged-checkpoint-3", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert steps_in(tmp_path) == [100, 20, 9]
    assert verify(tmp_path / "checkpoint-100")["step"] == 100


DAMAGE = {
    "a byte": lambda path: path.write_bytes(b"Weights 20"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_named_and_set_aside(save, tmp_path, caplog, name, damage):
    save(10), save(20)
    damage(tmp_path / "checkpoint-20" / name)
    assert find_newest(tmp_path) == tmp_path / "checkpoint-10"
    assert f"checkpoint-20/{name}" in caplog.text and "is now damaged-checkpoint-20" in caplog.text
    assert steps_in(tmp_path) == [10] and (tmp_path / "damaged-checkpoint-20").is_dir()


def test_a_newest_one_whose_best_is_damaged_is_not_used(save, tmp_path):
    save(10), save(20), save(30, best_step=10)
    DAMAGE["a byte"](tmp_path / "checkpoint-10" / "model.safetensors")
    assert find_newest(tmp_path) == tmp_path / "checkpoint-20"
    shutil.rmtree(tmp_path / "checkpoint-20")
    for _ in range(2):  # and it stays so: a run never starts from nothing by itself
        with pytest.raises(DamagedCheckpointError, match="holds no checkpoint that is whole"):
            find_newest(tmp_path)


def test_a_folder_without_checkpoints_is_started_in_only_if_it_is_empty(tmp_path):
    assert find_start(tmp_path, SETTINGS, {}) == (None, False)
    (tmp_path / STAGING).mkdir()
    assert find_start(tmp_path, SETTINGS, {}) == (None, False)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"not empty .notes.txt.: there is no checkpoint to resume from"):
        find_start(tmp_path, SETTINGS, {})


def test_changed_settings_are_refused_by_name_but_for_those_that_may_change(save, tmp_path, caplog):
    save(10)
    caplog.set_level("INFO", "smsa")
    assert find_start(tmp_path, SETTINGS, {}) == (tmp_path / "checkpoint-10", False)
    longer = SETTINGS | {"num_train_epochs": 5}
    assert find_start(tmp_path, longer, {}) == (tmp_path / "checkpoint-10", False)
    assert "Changed within the run: num_train_epochs was 3, is 5" in caplog.text
    for change, said in (({"learning_rate": 2e-3}, "learning_rate was 0.001, is 0.002"),
                         ({"sha256 of train": "b"}, "sha256 of train was a, is b"),
                         ({"weight_decay": 0.1}, "weight_decay was None, is 0.1")):  # fmt: skip
        with pytest.raises(UserError, match=f"made with other settings: {said}. Give them as before"):
            find_start(tmp_path, longer | change, {})


def test_another_machine_is_said_but_not_refused(save, tmp_path, caplog):
    save(10, environment={"torch": "2.13.0", "n_threads": 2})
    find_start(tmp_path, SETTINGS, {"torch": "2.13.0", "n_threads": 4})
    assert "last bits of the result may differ" in caplog.text and "n_threads was 2, is 4" in caplog.text
    assert "torch was" not in caplog.text


def test_a_finished_run_is_finished_until_a_setting_changes_or_an_output_is_lost(save, tmp_path, caplog):
    save(10)
    (tmp_path / "model.safetensors").touch()
    record = {"settings": SETTINGS, "outputs": ["model.safetensors"]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert find_start(tmp_path, SETTINGS, {}) == (None, True)
    assert find_start(tmp_path, SETTINGS | {"num_train_epochs": 5}, {}) == (tmp_path / "checkpoint-10", False)
    (tmp_path / "model.safetensors").unlink()
    assert find_start(tmp_path, SETTINGS, {}) == (tmp_path / "checkpoint-10", False)
    assert "has lost model.safetensors: the result is written again" in caplog.text
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="run.json is not what a finished run leaves"):
        find_start(tmp_path, SETTINGS, {})


def test_an_output_folder_must_be_empty_or_resumed(tmp_path):
    folder = tmp_path / "run"
    with sole_run(folder, resume=False):
        assert (folder / "run.lock").exists()
        (folder / "model.safetensors").touch()
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    with pytest.raises(UserError, match="not empty .model.safetensors.: resume it by --resume auto"), \
            sole_run(folder, resume=False):  # fmt: skip
        pass
    with sole_run(folder, resume=True):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), sole_run(tmp_path / "file", resume=False):
        pass


def test_a_run_that_fails_before_it_has_anything_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), sole_run(tmp_path / "run", resume=False):
        1 / 0  # noqa: B018
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_was_writing_is_cleared_away(tmp_path):
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "model.safetensors").touch()
    (tmp_path / "run.lock").touch()  # of a process that is gone
    with sole_run(tmp_path, resume=False):
        assert not (tmp_path / STAGING).exists()


def test_a_second_run_in_the_folder_is_refused_and_touches_nothing(tmp_path):
    with FileLock(tmp_path / "run.lock"):
        (tmp_path / STAGING).mkdir()
        with pytest.raises(UserError, match="is in use by another run: wait for it, stop it, or"), \
                sole_run(tmp_path, resume=True):  # fmt: skip
            pass
        assert (tmp_path / STAGING).exists() and (tmp_path / "run.lock").exists()


def _race(folder, barrier, results):
    barrier.wait()
    try:
        with sole_run(folder, resume=True):
            results.put("ran")
            barrier.wait()
    except UserError:
        results.put("refused")
        barrier.wait()


def test_of_runs_that_start_at_once_exactly_one_is_at_work(tmp_path):
    context = multiprocessing.get_context("fork")
    for i in range(5):
        barrier, results = context.Barrier(3), context.Queue()
        racers = [context.Process(target=_race, args=(tmp_path / str(i), barrier, results)) for _ in range(3)]
        for racer in racers:
            racer.start()
        assert sorted(results.get(timeout=30) for _ in racers) == ["ran", "refused", "refused"]
        for racer in racers:
            racer.join()
