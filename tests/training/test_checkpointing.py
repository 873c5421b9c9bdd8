"""A run resumes only under the same settings, from whole checkpoints, one run a folder; damage: test_resumable.py."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock, SoftFileLock

from smsa.errors import UserError
from smsa.files import STAGING, require_empty
from smsa.training import checkpointing
from smsa.training.checkpointing import commit, find_newest, find_start, list_checkpoints, sole_run, verify

SETTINGS = {"learning_rate": 1e-3, "num_train_epochs": 3, "sha256 of train": "a"}
HERE = {"torch": "2.13.0", "n_threads": 2}


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> dict:
    """What this machine is said to be."""
    environment = dict(HERE)
    monkeypatch.setattr(checkpointing, "describe_environment", lambda device_type: environment)
    return environment


def start(folder, settings=SETTINGS) -> tuple:
    return find_start(SimpleNamespace(output_dir=str(folder), resume="auto", device=torch.device("cpu")), settings)


def save(folder, step, best_step=None) -> None:
    """Take a checkpoint after a step."""
    (folder / "staging").mkdir()
    (folder / "staging" / "model.safetensors").touch(0o600)  # as safetensors does
    (folder / "staging" / "model.safetensors").write_bytes(b"weights %d" % step)
    described = {"step": step, "best_step": best_step, "settings": SETTINGS, "environment": HERE}
    commit(folder / "staging", folder / f"checkpoint-{step}", **described)


def test_checkpoints_are_found_by_number_and_readable_by_whoever_may_read_a_new_file(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    for name in ("damaged-checkpoint-300", "checkpoint-100-backup"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]
    assert verify(tmp_path / "checkpoint-100")["step"] == 100
    assert len({path.stat().st_mode for path in (tmp_path / "checkpoint-100").iterdir()}) == 1


def test_a_newest_one_whose_best_is_damaged_is_not_used(tmp_path):
    save(tmp_path, 10), save(tmp_path, 20), save(tmp_path, 30, best_step=10)
    weights = tmp_path / "checkpoint-10" / "model.safetensors"
    weights.write_bytes(b"Weights 10")
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert find_newest(tmp_path / "copy").name == "checkpoint-20"
    shutil.rmtree(tmp_path / "checkpoint-20")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):  # and it stays so: a run never starts from nothing by itself
        with pytest.raises(UserError, match="holds no checkpoint that is whole .checkpoint-10"):
            find_newest(tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
    weights.write_bytes(b"weights 10")  # put back
    assert find_newest(tmp_path).name == "checkpoint-30"


def test_a_folder_without_checkpoints_is_started_in_only_if_it_is_empty(tmp_path):
    (tmp_path / STAGING).mkdir()  # of a run that was killed
    (tmp_path / "runs").mkdir()  # of TensorBoard
    assert start(tmp_path) == (None, False)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"not empty .notes.txt.: there is no checkpoint to resume from"):
        start(tmp_path)


def test_changed_settings_are_refused_by_name_but_for_some_and_another_machine(environment, tmp_path, caplog):
    save(tmp_path, 10)
    longer = SETTINGS | {"num_train_epochs": 5}
    environment["n_threads"] = 4
    for settings in (SETTINGS, longer):
        assert start(tmp_path, settings) == (tmp_path / "checkpoint-10", False)
    assert "Changed within the run: num_train_epochs was 3, is 5" in caplog.text
    assert "last bits of the result may differ from an uninterrupted run's: n_threads was 2, is 4." in caplog.text
    changed = longer | {"learning_rate": 2e-3, "metric_for_best_model": "loss", "sha256 of train": "b"}
    said = "learning_rate was 0.001, is 0.002; metric_for_best_model was None, is loss; sha256 of train was a, is b"
    with pytest.raises(UserError, match=f"made with other settings: {said}. Give them as before"):
        start(tmp_path, changed)


def refuse(folder, message, resume=False):
    with pytest.raises(UserError, match=message), sole_run(folder, resume):
        pass


def test_an_output_folder_is_empty_or_resumed_and_left_without_traces(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), sole_run(folder, resume=False):
        1 / 0  # noqa: B018
    assert not folder.exists()
    (folder / STAGING).mkdir(parents=True)
    (folder / "run.lock").touch()  # of a process that is gone
    with sole_run(folder, resume=False):
        assert (folder / "run.lock").exists() and not (folder / STAGING).exists()
        (folder / "model.safetensors").touch()
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    refuse(folder, "not empty .model.safetensors.: resume with --resume auto")
    with sole_run(folder, resume=True), pytest.raises(UserError, match=r"not empty \(model.safetensors, run.lock\)"):
        require_empty(folder, "choose another --output")  # as a calibration asks
    with FileLock(folder / "run.lock"):
        (folder / STAGING).mkdir()
        refuse(folder, "is in use by another run: wait for it, stop it, or", resume=True)
        assert (folder / STAGING).exists()
    (folder / STAGING).rmdir()
    monkeypatch.setattr(checkpointing, "FileLock", SoftFileLock)  # what filelock takes on a disk without flock
    (folder / "run.lock").write_text("1\nnode7\n")  # of a machine that is gone
    refuse(folder, "choose another folder. If it was killed, remove .*run.lock", resume=True)
    refuse(folder / "model.safetensors", "is a file")
