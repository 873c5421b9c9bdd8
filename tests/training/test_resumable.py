"""Whatever ends a run, going on with it gives what an undisturbed run gives, to the bit."""

import json
import os
import pickle
import shutil
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import fill, make_model
from trainers import AskAt, make_trainer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from smsa.errors import UserError
from smsa.files import hash_file
from smsa.pretraining.trainer import MaskedTrainer
from smsa.training.callbacks import RunStart, Stopped
from smsa.training.checkpointing import DamagedCheckpointError, find_newest, verify
from smsa.training.trainer import SentimentTrainer

N_ROWS, STEPS_AN_EPOCH = 37, 5


class AskAtEvaluation(TrainerCallback):
    """Asks for a stop while valid is scored after some epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def make(rows, tokenizer):
    """A function that gets a trainer over a model with dropout, which stops early in epoch 5 of 9, the best being 3."""

    def make(output_dir, ask=None, **changes):
        values = {"num_train_epochs": 9, "learning_rate": 1e-2, "lr_gamma": 0.7, "early_stopping_patience": 2}
        model = make_model(dropout=0.3, seed=1)
        trainer = make_trainer(model, tokenizer, rows(N_ROWS), rows(20), output_dir, **values | changes)
        if ask is not None:
            trainer.add_callback(ask)
        return trainer

    return make


def seen(trainer) -> dict:
    """All that must not depend on interruptions."""
    history = [
        {name: value for name, value in entry.items() if not name.endswith(("_runtime", "_per_second", "_flos"))}
        for entry in trainer.state.log_history
        if "train_f1" in entry or "eval_f1" in entry
    ]
    last = max(Path(trainer.args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    files = sorted(path for path in last.iterdir() if path.suffix in (".safetensors", ".pt", ".pth"))
    return {
        "weights": [p.detach().clone() for p in trainer.model.parameters()],
        "history": history,
        "stopped": trainer.state.global_step,
        "best": (trainer.state.best_global_step, trainer.state.best_metric),
        "files": {path.name: hash_file(path) for path in files},
    }


def assert_same(found: dict, expected: dict) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found.pop("weights"), expected["weights"], strict=True))
    assert found == {name: value for name, value in expected.items() if name != "weights"}


@pytest.fixture
def undisturbed(make, tmp_path):
    trainer = make(tmp_path / "undisturbed")
    trainer.train()
    result = seen(trainer)
    assert (result["stopped"], result["best"][0]) == (5 * STEPS_AN_EPOCH, 3 * STEPS_AN_EPOCH)  # it did stop early
    assert result["files"].keys() == {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    return result


ASKED = {
    "in epoch 1": [AskAt(2)],
    "in epoch 2": [AskAt(8)],
    "last step of an epoch": [AskAt(10)],
    "while valid is scored": [AskAtEvaluation(2.0)],
    "three times": [AskAt(3), AskAt(4), AskAt(11)],
    "last step of all": [AskAtEvaluation(5.0)],
}


@pytest.mark.parametrize("asks", ASKED.values(), ids=ASKED)
def test_stopped_and_gone_on_with_equals_undisturbed(make, undisturbed, tmp_path, asks):
    resume = None
    for ask in asks:
        trainer = make(tmp_path / "run", ask)
        with pytest.raises(Stopped) as stopped:
            trainer.train(resume_from_checkpoint=resume)
        assert stopped.value.code in (143, 130)
        resume = True
        assert (tmp_path / "run" / f"checkpoint-{trainer.state.global_step}").is_dir()
    trainer = make(tmp_path / "run")
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), undisturbed)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2},
        {"train_sampling_strategy": "group_by_length"},
        {"fast_kernels": True},
        {"precision": "bf16", "ema_decay": 0.8},
        {"ema_decay": 0.8, "rdrop_alpha": 1.0},
        {"dataloader_num_workers": 1},
        {"class_weights": "1,3,2", "max_grad_norm": 0.3},
        {"evaluate_every": 2},
        {"load_best_model_at_end": False, "early_stopping_patience": 0, "max_steps": 13},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_it_holds_for_other_ways_to_train(make, tmp_path, changes):
    changes = {"num_train_epochs": 3, **changes}
    plain = make(tmp_path / "plain", **changes)
    plain.train()
    trainer = make(tmp_path / "run", AskAt(2), **changes)
    with pytest.raises(Stopped):
        trainer.train()
    assert trainer.state.global_step == 2
    trainer = make(tmp_path / "run", **changes)
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), seen(plain))


def test_a_run_that_is_over_does_not_train_on(make, undisturbed, tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    trainer = make(tmp_path / "undisturbed")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.losses == []
    assert_same(seen(trainer), undisturbed)
    assert "Training was over after step 25" in caplog.text
    halfway = {"max_steps": 7, "early_stopping_patience": 0}
    make(tmp_path / "run", **halfway).train()
    trainer = make(tmp_path / "run", **halfway)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.losses == [] and trainer.state.global_step == 7


def test_a_run_that_stopped_early_goes_on_under_more_patience(make, undisturbed, tmp_path, caplog):
    caplog.set_level("INFO", "smsa")
    patient = make(tmp_path / "patient", early_stopping_patience=4)
    patient.train()
    assert patient.state.global_step > undisturbed["stopped"]
    trainer = make(tmp_path / "undisturbed", early_stopping_patience=4)
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), seen(patient))
    assert "Training was over" not in caplog.text


def test_a_callback_that_the_checkpoint_does_not_know_is_no_obstacle(make, tmp_path):
    make(tmp_path / "run", early_stopping_patience=0, num_train_epochs=1).train()
    trainer = make(tmp_path / "run", early_stopping_patience=2, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 * STEPS_AN_EPOCH


def test_the_folder_may_move_between_two_parts_of_a_run(make, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(18)).train()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    trainer = make(tmp_path / "moved")
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), undisturbed)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_any_damage_to_the_newest_checkpoint_is_named_and_the_older_one_used(make, undisturbed, tmp_path, caplog):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(13)).train()
    newest = tmp_path / "run" / "checkpoint-13"
    names = sorted(path.name for path in newest.iterdir())
    assert {"manifest.json", "trainer_state.json", "config.json", "tokenizer.json"} < set(names) and len(names) == 9
    n_cases = 0
    for name in names:
        for damage in (truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")):
            if name == "manifest.json" and damage is flip:
                continue  # then another file is not what it says, or a setting is not
            case = tmp_path / "case"
            shutil.copytree(tmp_path / "run", case)
            damage(case / "checkpoint-13" / name)
            caplog.clear()
            found = find_newest(case)
            assert found == case / "checkpoint-10"
            assert f"checkpoint-13/{name} " in caplog.text and "is now damaged-checkpoint-13" in caplog.text
            assert (case / "damaged-checkpoint-13").is_dir() and not (case / "checkpoint-13").exists()
            trainer = make(case)
            trainer.train(resume_from_checkpoint=True)
            assert_same(seen(trainer), undisturbed)
            shutil.rmtree(case)
            n_cases += 1
    assert n_cases == 35


def test_a_damaged_best_checkpoint_is_not_trained_past(make, tmp_path, caplog):
    trainer = make(tmp_path / "run", AskAt(23))
    with pytest.raises(Stopped):
        trainer.train()
    best = tmp_path / "run" / f"checkpoint-{trainer.state.best_global_step}"
    flip(best / "model.safetensors")
    before = contents(tmp_path / "run")
    for _ in range(2):  # and it stays so: the run never starts from nothing by itself
        with pytest.raises(DamagedCheckpointError, match="holds no checkpoint that is whole .checkpoint-15"):
            find_newest(tmp_path / "run")
        assert contents(tmp_path / "run") == before
    flip(best / "model.safetensors")  # put back
    assert find_newest(tmp_path / "run") == tmp_path / "run" / "checkpoint-23"


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("is_forged", [False, True])
def test_a_pickle_in_a_checkpoint_never_runs(make, tmp_path, name, is_forged):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(2)).train()
    checkpoint, ran = tmp_path / "run" / "checkpoint-2", tmp_path / "ran"
    if name == "rng_state.pth":
        torch.save({"python": Canary(ran)}, checkpoint / name)
    else:
        (checkpoint / name).write_bytes(pickle.dumps(Canary(ran)))
    if is_forged:  # by someone who knows how a manifest is made
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        digest, size = hash_file(checkpoint / name)
        manifest["files"][name] = {"bytes": size, "sha256": digest}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
        verify(checkpoint)
    with pytest.raises(DamagedCheckpointError, match="pickle of more than tensors" if is_forged else "that is whole"):
        make(tmp_path / "run").train(resume_from_checkpoint=True)
    assert not ran.exists()


def test_a_run_of_half_an_epoch_more_can_be_finished_after_its_last_step(make, tmp_path):
    """Steps are rounded up: the last checkpoint may lie beyond the epochs that were asked for."""
    trainer = make(tmp_path / "run", num_train_epochs=1.5, early_stopping_patience=0)
    trainer.train()
    assert trainer.state.global_step == 8 and trainer.state.epoch == 1.6
    again = make(tmp_path / "run", num_train_epochs=1.5, early_stopping_patience=0)
    again.train(resume_from_checkpoint=True)
    assert again.losses == [] and again.state.global_step == 8
    shorter = make(tmp_path / "run", num_train_epochs=1.4, early_stopping_patience=0)
    with pytest.raises(UserError, match="has trained for 1.6 epochs: --num_train_epochs cannot be less"):
        shorter.train(resume_from_checkpoint=True)


def test_a_checkpoint_of_more_processes_is_refused(make, tmp_path):
    make(tmp_path, num_train_epochs=1).train()
    path = tmp_path / "checkpoint-5" / "manifest.json"
    path.write_text(path.read_text().replace('"world_size": 1', '"world_size": 2'))
    with pytest.raises(UserError, match="was made by 2 processes, these are 1"):
        make(tmp_path).train(resume_from_checkpoint=True)


def test_training_again_from_the_beginning_leaves_only_its_own_checkpoints(make, undisturbed, tmp_path, caplog):
    trainer = make(tmp_path / "undisturbed", num_train_epochs=1)
    trainer.train()
    assert [path.name for path in (tmp_path / "undisturbed").glob("checkpoint-*")] == ["checkpoint-5"]
    assert "checkpoint-25 is of an earlier training in this folder, and is removed" in caplog.text
    again = make(tmp_path / "undisturbed")
    again.train(resume_from_checkpoint=True)
    assert_same(seen(again), undisturbed)


@pytest.mark.parametrize("n_epochs", [2, 3])
def test_a_run_that_ended_without_an_evaluation_keeps_the_best_average(make, tmp_path, n_epochs):
    changes = {"ema_decay": 0.8, "evaluate_every": 2, "num_train_epochs": n_epochs, "early_stopping_patience": 0}
    trainer = make(tmp_path / "run", **changes)
    trainer.train()
    assert trainer.state.best_global_step == 2 * STEPS_AN_EPOCH
    best = [p.detach().clone() for p in trainer.model.parameters()]
    again = make(tmp_path / "run", **changes)
    again.train(resume_from_checkpoint=True)
    for either in (trainer, again):
        either.predict(either.eval_dataset)
        assert all(torch.equal(a, b) for a, b in zip(either.model.parameters(), best, strict=True))


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_a_trainer_can_train_twice(make, tmp_path, ema_decay):
    trainer = make(tmp_path / "run", ema_decay=ema_decay)
    trainer.train()
    n_steps, best = len(trainer.losses), [p.detach().clone() for p in trainer.model.parameters()]
    assert n_steps == 5 * STEPS_AN_EPOCH

    class Begin(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            optimizer.train()
            assert all(torch.equal(a, b) for a, b in zip(model.parameters(), best, strict=True))

    trainer.add_callback(Begin())
    trainer.train()
    assert len(trainer.losses) > n_steps


@pytest.mark.parametrize("step", [6, 10])  # the first and the last of epoch 2
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(make, tmp_path, step):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step + 1 == step:
                with torch.no_grad():
                    model.get_input_embeddings().weight.fill_(float("nan"))

    trainer = make(tmp_path / "run", Poison())
    with pytest.raises(
        UserError, match=f"not finite .NaN or infinite. in epoch 2, at or before step {step} of the run"
    ):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]


def test_fp16_may_skip_a_step_but_not_all(make, tmp_path):
    """A real gradient scaler on the CPU, as in fp16 on a GPU, and a loss that is infinite once, then always."""

    class Overflowing(type(make(tmp_path / "x"))):
        def compute_loss(self, *args, num_items_in_batch=None, **kwargs):
            loss = super().compute_loss(*args, num_items_in_batch=num_items_in_batch, **kwargs)
            return loss * float("inf") if self.overflows(self.state.global_step) and self.model.training else loss

    def train(name, overflows):
        trainer = make(tmp_path / name, num_train_epochs=6, early_stopping_patience=0)
        trainer.__class__ = Overflowing
        trainer.overflows = overflows
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
        trainer.train()
        return trainer

    assert train("once", lambda step: step == 3).state.global_step == 30
    with pytest.raises(UserError, match="not finite"):
        train("always", lambda step: True)


def test_weights_that_are_not_finite_are_never_kept(make, tmp_path):
    """The update of the last step of epoch 2 breaks them, which no loss has seen yet."""

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2 * STEPS_AN_EPOCH:
                with torch.no_grad():
                    model.classifier.weight[0, 0] = float("inf")

    trainer = make(tmp_path / "run", Break())
    with pytest.raises(UserError, match="weights are not finite after step 10"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]


def with_scaler(trainer):
    """Give a trainer what fp16 has on a GPU."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
    return trainer


def test_the_scaler_of_fp16_is_resumed_too(make, tmp_path):
    plain = with_scaler(make(tmp_path / "plain"))
    plain.train()
    assert "scaler.pt" in seen(plain)["files"] and plain.accelerator.scaler.get_scale() > 2.0**4
    with pytest.raises(Stopped):
        with_scaler(make(tmp_path / "run", AskAt(8))).train()
    trainer = with_scaler(make(tmp_path / "run"))
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), seen(plain))


class AtEpoch(TrainerCallback):
    """Does something when an epoch begins."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, args, state, control, **kwargs):
        if round(state.epoch or 0) == self.epoch:
            self.action()


def contents(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_disk_that_fills_up_leaves_what_was_there(make, undisturbed, small_disk):
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run, before = small_disk / "run", {}

    def fill_up():
        before.update(contents(run))
        fill(small_disk)

    with pytest.raises((OSError, UserError), match="No space left on device|could not be written"):
        make(run, AtEpoch(2, fill_up)).train()
    assert "checkpoint-10/manifest.json" in before and contents(run) == before
    (small_disk / "filler").unlink()
    trainer = make(run)
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), undisturbed)


@pytest.mark.parametrize("trouble", ["read-only", "vanished"])
def test_a_folder_that_is_taken_away_ends_the_run_with_a_reason(make, small_disk, trouble):
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run, before = small_disk / "run", {}

    def take_away():
        before.update(contents(run))
        if trouble == "vanished":
            os.rename(run, small_disk / "elsewhere")
        else:
            subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    reason = "No such file" if trouble == "vanished" else "Read-only file system"
    with pytest.raises((OSError, UserError), match=reason):
        make(run, AtEpoch(1, take_away)).train()
    assert "checkpoint-5/manifest.json" in before
    assert contents(small_disk / "elsewhere" if trouble == "vanished" else run) == before
    assert trouble != "vanished" or not run.exists()


def test_few_methods_of_trainer_are_overridden():
    kinds = {kind for kind in (*SentimentTrainer.__mro__, MaskedTrainer) if kind.__module__.startswith("smsa")}
    overridden = {
        name for kind in kinds for name, value in vars(kind).items() if callable(value) and name in dir(Trainer)
    }
    assert overridden - {"__init__"} == {
        *("train", "compute_loss", "create_scheduler", "get_batch_samples", "training_step", "save_model"),
        *("_save_checkpoint", "_get_train_sampler"),
    }


def test_each_process_draws_dropout_of_its_own(make, tmp_path):
    [callback] = [c for c in make(tmp_path).callback_handler.callbacks if isinstance(c, RunStart)]
    drawn = {}
    for rank, world_size, step in ((0, 2, 0), (1, 2, 0), (1, 2, 3), (0, 1, 0)):
        torch.manual_seed(7)
        args = SimpleNamespace(seed=7, process_index=rank, world_size=world_size)
        callback.on_train_begin(args, TrainerState(global_step=step), TrainerControl())
        drawn[rank, world_size, step] = torch.rand(4).tolist()
    torch.manual_seed(7)
    alone = torch.rand(4).tolist()
    assert drawn[0, 1, 0] == drawn[1, 2, 3] == alone != drawn[1, 2, 0]  # a checkpoint has the state of each process
