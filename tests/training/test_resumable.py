"""Whatever ends a run, resuming it gives what an undisturbed run gives, to the bit."""

import math
import os
import pickle
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Canary, contents, make_model
from trainers import At, RecordingTrainer, ask_at, flatten, log_of, make_tiny_trainer
from transformers import TrainerControl, TrainerState

from smsa.errors import UserError
from smsa.files import hash_file
from smsa.training.callbacks import RunGuard, count_worse
from smsa.training.checkpointing import find_newest, list_checkpoints, verify
from smsa.training.trainer import SentimentTrainer

STEPS_AN_EPOCH = 5  # of 37 rows


def by_steps(n) -> dict:
    return {"eval_strategy": "steps", "eval_steps": n, "save_strategy": "steps", "save_steps": n}


def make(output_dir, *callbacks, scaler=False, **changes) -> RecordingTrainer:
    """Return a trainer with dropout, which stops early in epoch 5 of 9, the best being 3."""
    values = {"num_train_epochs": 9, "learning_rate": 1e-2, "lr_gamma": 0.7, "early_stopping_patience": 2}
    trainer = make_tiny_trainer(output_dir, 37, 20, make_model(dropout=0.3, seed=1), **values | changes)
    for callback in callbacks:
        trainer.add_callback(callback)
    if scaler:  # what fp16 has on a GPU
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
    return trainer


def train(output_dir, *callbacks, resume=False, **changes) -> RecordingTrainer:
    """Return such a trainer that has trained, from the newest checkpoint if it is to resume."""
    trainer = make(output_dir, *callbacks, **changes)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def seen(trainer) -> dict:
    """Return all that must not depend on interruptions."""
    history = [
        {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second", "_flos"))}
        for entry in trainer.state.log_history
        if "train_f1" in entry or "eval_f1" in entry
    ]
    last, *_ = list_checkpoints(Path(trainer.args.output_dir))
    files = sorted(path for path in last.iterdir() if path.suffix in (".safetensors", ".pt", ".pth"))
    return {
        "weights": flatten(trainer.model).tolist(),
        "history": history,
        "stopped": trainer.state.global_step,
        "best": (trainer.state.best_global_step, trainer.state.best_metric, verify(last)["best_step"]),
        "files": {path.name: hash_file(path) for path in files},
    }


@pytest.fixture(scope="module")
def run_in_peace(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a run that nothing disturbed, and what it gave."""
    folder = tmp_path_factory.mktemp("run")
    found = seen(train(folder))
    assert (found["stopped"], found["best"][0], found["best"][2]) == (25, 15, 15)  # it did stop early
    assert found["files"].keys() == {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    return folder, found


@pytest.fixture
def undisturbed(run_in_peace) -> dict:
    return run_in_peace[1]


@pytest.fixture
def finished(run_in_peace, tmp_path) -> Path:
    return shutil.copytree(run_in_peace[0], tmp_path / "finished")


def test_stopped_at_many_places_and_resumed_equals_undisturbed_also_in_another_folder(undisturbed, tmp_path):
    """Within an epoch, twice in a row; in its last step; while valid is evaluated; after the best; at the end."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests run under nohup it is ignored, and a run keeps that
    run, term, hup, interrupt = tmp_path / "run", signal.SIGTERM, signal.SIGHUP, signal.SIGINT
    for step, signum in ((2, term), (3, term), (8, hup), (10, term), (15, interrupt), (18, term), (25, interrupt)):
        trainer = make(run, ask_at(step, signum, "on_prediction_step" if signum == interrupt else "on_step_begin"))
        with pytest.raises(SystemExit) as stopped:
            trainer.train(resume_from_checkpoint=step > 2)
        assert (stopped.value.code, trainer.state.global_step) == (128 + signum, step)
        assert (run / f"checkpoint-{step}").is_dir()
    shutil.move(run, tmp_path / "moved")
    over = train(tmp_path / "moved", resume=True)
    assert over.losses == [] and seen(over) == undisturbed


WAYS = [
    {"gradient_accumulation_steps": 2, "class_weights": "1,3,2", "max_grad_norm": 0.3},
    {"train_sampling_strategy": "group_by_length", "fast_kernels": True, "evaluate_every": 2},
    {"precision": "bf16", "ema_decay": 0.8, "rdrop_alpha": 1.0, "dataloader_num_workers": 1},
    {"load_best_model_at_end": False, "early_stopping_patience": 0, "max_steps": 13},
    {"scaler": True},
    by_steps(2) | {"num_train_epochs": 2},
    {"eval_on_start": True, "early_stopping_patience": 2, "save_only_model": True},
    {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "num_train_epochs": 2},
]


@pytest.mark.parametrize("changes", WAYS, ids=lambda changes: next(iter(changes)))
def test_it_holds_for_other_ways_to_train(tmp_path, changes):
    changes = {"num_train_epochs": 3, **changes}
    plain = train(tmp_path / "plain", **changes)
    with pytest.raises(SystemExit):
        train(tmp_path / "run", ask_at(2), **changes)
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    resumed = train(tmp_path / "run", resume=True, **changes)
    assert resumed.args.eval_on_start == plain.args.eval_on_start  # as run.json records it
    found, expected = seen(resumed), seen(plain)
    if changes.get("save_strategy") == "best":  # the newest checkpoint is that of the stop, if none was better since
        del found["files"], expected["files"]
    assert found == expected
    if "scaler" in changes:
        assert "scaler.pt" in expected["files"] and plain.accelerator.scaler.get_scale() > 2.0**4


ENDS = [({"num_train_epochs": 1.5}, 8), ({"max_steps": 7}, 7), ({"max_steps": 7} | by_steps(7), 7)]
ENDS += [({"early_stopping_patience": 6, "learning_rate": 1e-12} | by_steps(1), 7)]


@pytest.mark.parametrize("length, n_steps", ENDS)
def test_a_run_that_ends_within_an_epoch_is_over_then(tmp_path, length, n_steps):
    """Steps are rounded up: the last checkpoint may lie beyond the epochs that were asked for."""
    for n_taken in (n_steps, 0):
        trainer = train(tmp_path / "run", resume=n_taken == 0, **{"early_stopping_patience": 0} | length)
        assert (len(trainer.losses), trainer.state.global_step) == (n_taken, n_steps)
        assert sum("train_f1" in entry for entry in trainer.state.log_history) == 2
    for shorter in ({"num_train_epochs": 1.2}, {"max_steps": 6}):
        with pytest.raises(UserError, match="has trained for 1.[46] epochs, [78] steps: .* cannot be less"):
            train(tmp_path / "run", resume=True, **shorter)
    longer = {"num_train_epochs": 2, "max_steps": -1, "early_stopping_patience": 0}
    trainer = train(tmp_path / "run", resume=True, **length | longer)
    assert sum(log_of(trainer, f"train_n_{label}")[-1] for label in trainer.labels) == 37  # rows of the whole epoch


def test_the_batch_that_was_found_to_fit_is_that_of_the_resumed_run(tmp_path):
    options = {"auto_find_batch_size": True, "num_train_epochs": 1}
    first = make(tmp_path, **options)
    first._train_batch_size = 4  # as where 8 are too much
    first.train()
    assert (first.state.global_step, train(tmp_path, resume=True, **options).losses) == (10, [])


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_a_trainer_can_train_twice_and_the_second_run_leaves_only_its_own_checkpoints(tmp_path, caplog, ema_decay):
    trainer, starts = train(tmp_path, ema_decay=ema_decay, num_train_epochs=2), []
    assert len(trainer.losses) == 2 * STEPS_AN_EPOCH
    best = flatten(trainer.model)
    trainer.add_callback(At("on_step_begin", lambda state, model: starts.append(flatten(model))))
    trainer.args.num_train_epochs = 1
    trainer.train()
    assert torch.equal(starts[0], best)
    assert trainer.rates[:STEPS_AN_EPOCH] == trainer.rates[2 * STEPS_AN_EPOCH :]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]
    assert "checkpoint-10 is from an earlier training in this folder, and is removed" in caplog.text
    trainer.settings = {"seed": 7}
    with pytest.raises(UserError, match="checkpoint-5 is from another run, and would be deleted"):
        trainer.train()


def test_any_damage_to_the_newest_checkpoint_is_named_and_the_older_one_used(undisturbed, finished, tmp_path, caplog):
    files = contents(finished / "checkpoint-25")
    assert {"manifest.json", "trainer_state.json", "config.json", "tokenizer.json"} < files.keys() and len(files) == 9
    for name, content in files.items():
        flipped = content[:20] + bytes([content[20] ^ 1]) + content[21:]
        for damaged in (content[:-2], None, flipped)[: 2 if name == "manifest.json" else 3]:
            case = shutil.copytree(finished, tmp_path / "case", dirs_exist_ok=True)
            path = case / "checkpoint-25" / name
            path.write_bytes(damaged) if damaged is not None else path.unlink()
            caplog.clear()
            assert find_newest(case) == case / "checkpoint-20"
            assert f"checkpoint-25/{name} " in caplog.text and "is now damaged-checkpoint-25" in caplog.text
            assert (case / "damaged-checkpoint-25").is_dir() and not (case / "checkpoint-25").exists()
    assert seen(train(case, resume=True)) == undisturbed


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_never_runs(finished, tmp_path, name):
    checkpoint, ran, manifest = finished / "checkpoint-25", tmp_path / "ran", finished / "checkpoint-25/manifest.json"
    before = hash_file(checkpoint / name)
    torch.save({"python": Canary(ran)}, checkpoint / name)
    with pytest.raises(UserError, match=f"checkpoint-25/{name} is not what was written"):
        train(finished, resume=checkpoint)
    # by someone who knows how it is made
    manifest.write_text(manifest.read_text().replace(before, hash_file(checkpoint / name)))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        train(finished, resume=True, early_stopping_patience=0)
    assert not ran.exists()


def test_a_checkpoint_of_more_processes_or_of_a_model_alone_is_refused(finished, tmp_path):
    path = finished / "checkpoint-25" / "manifest.json"
    path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 2'))
    with pytest.raises(UserError, match="needs 2 processes, as before, but 1 were launched"):
        train(finished, resume=True)
    train(tmp_path, num_train_epochs=1, save_only_model=True)
    with pytest.raises(UserError, match="was saved with --save_only_model: start anew in"):
        train(tmp_path, resume=True)


NOT_FINITE = [  # in the first and the last step of epoch 2, and by its last update, which no loss has seen
    ("on_step_begin", 5, "not finite .NaN or infinite. in epoch 2, at or before step 6 of the run"),
    ("on_step_begin", 9, "not finite .NaN or infinite. in epoch 2, at or before step 10 of the run"),
    ("on_step_end", 10, "weights are not finite after step 10"),
]


@pytest.mark.parametrize("event, step, message", NOT_FINITE)
def test_what_is_not_finite_stops_the_run_says_where_and_is_never_kept(tmp_path, event, step, message):
    def poison(state, model):
        if state.global_step == step:
            with torch.no_grad():
                model.get_input_embeddings().weight.fill_(float("nan"))

    with pytest.raises(UserError, match=message):
        train(tmp_path, At(event, poison))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]


@pytest.mark.parametrize("steps", [[3], range(99)], ids=["one", "all"])
def test_fp16_may_skip_a_step_but_not_all(tmp_path, monkeypatch, steps):
    """A real gradient scaler on the CPU, as in fp16 on a GPU, and a loss that is infinite once, or always."""
    compute_loss = SentimentTrainer.compute_loss

    def overflow(self, model, *args, **kwargs):
        loss = compute_loss(self, model, *args, **kwargs)
        return loss * float("inf") if model.training and self.state.global_step in steps else loss

    monkeypatch.setattr(SentimentTrainer, "compute_loss", overflow)
    trainer = make(tmp_path, scaler=True, num_train_epochs=2, early_stopping_patience=0)
    with pytest.raises(UserError, match="not finite") if len(steps) > 1 else nullcontext():
        trainer.train()
    if len(steps) == 1:  # it was skipped, which moves no learning rate
        assert trainer.accelerator.scaler.get_scale() == 2.0**6  # and not 2**7: doubled three times, halved once
        assert trainer.rates == [rate for rate in (1e-2, 1e-2 * 0.7) for _ in range(STEPS_AN_EPOCH)]


TROUBLE = {
    "full": ("cat /dev/zero > filler", "rm filler", "No space left|could not be written"),
    "almost full": ("cat /dev/zero > filler; truncate -s -256K filler", "rm filler", "could not be written.*container"),
    "gone": ("mv run elsewhere", "mv elsewhere run", "No such file"),
    "read-only": ("mount -o remount,ro .", "mount -o remount,rw .", "Read-only file system"),
}


@pytest.mark.parametrize("fail, mend, reason", TROUBLE.values(), ids=TROUBLE)
def test_a_disk_that_fails_ends_the_run_and_leaves_what_was_there(undisturbed, small_disk, fail, mend, reason):
    run, before = small_disk / "run", {}

    def fail_in_epoch_3(state, model):
        if round(state.epoch or 0) == 2:
            before.update(contents(run))
            subprocess.run(fail, shell=True, cwd=small_disk)

    subprocess.run("mount -o remount,size=8m .", shell=True, cwd=small_disk)
    with pytest.raises((OSError, UserError), match=reason):
        train(run, At("on_epoch_begin", fail_in_epoch_3))
    assert run.exists() is ("elsewhere" not in mend)
    subprocess.run(mend, shell=True, cwd=small_disk)
    assert "checkpoint-10/manifest.json" in before and contents(run) == before
    assert seen(train(run, resume=True)) == undisturbed


def test_a_second_ctrl_c_ends_at_once():
    pid = os.fork()
    if not pid:
        guard = RunGuard(trainer=None)
        guard.on_train_begin(SimpleNamespace(world_size=1), TrainerState(), TrainerControl())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


def test_the_signals_are_given_back_and_what_was_ignored_stays_so(tmp_path, request):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
    request.addfinalizer(partial(signal.signal, signal.SIGTERM, before))
    interrupt, seen = signal.getsignal(signal.SIGINT), []
    look = At("on_step_end", lambda *_: seen.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGINT))))
    trainer = train(tmp_path, look, num_train_epochs=1)
    assert seen == [signal.SIG_IGN, trainer.guard.receive] * STEPS_AN_EPOCH
    assert signal.getsignal(signal.SIGINT) is interrupt


@pytest.mark.parametrize("scores, n", [([], -1), ([0.5, 0.5, 0.4], 2), ([0.5, math.nan], 1), ([math.nan, 0.1], 0)])
def test_evaluations_since_the_best_are_counted_ties_and_what_is_no_number_with_them(scores, n):
    state = TrainerState(log_history=[{"train_f1": 1.0}, *({"eval_f1": f1, "eval_loss": -f1} for f1 in scores)])
    assert count_worse(state, "f1", True) == count_worse(state, "loss", False) == n
