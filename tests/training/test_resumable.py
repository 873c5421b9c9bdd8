"""Whatever ends a run, going on with it gives what an undisturbed run gives, to the bit."""

import inspect
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

from smsa.files import hash_file
from smsa.training import resumable
from smsa.training.callbacks import OwnDropout
from smsa.training.checkpointing import (
    Checkpoints,
    DamagedCheckpointError,
    NotWrittenError,
    verify,
)
from smsa.training.signals import STOP, Stopped

N_ROWS, STEPS_AN_EPOCH = 37, 5


class AskAtEvaluation(TrainerCallback):
    """Asks for a stop while valid is scored after some epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_prediction_step(self, args, state, control, **kwargs):
        if state.epoch == self.epoch:
            STOP.signum = signal.SIGINT


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
        STOP.signum, resume = None, True
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
    STOP.signum = None
    trainer = make(tmp_path / "run", **changes)
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), seen(plain))


def test_a_machine_that_does_not_see_the_best_checkpoint_stops(make, tmp_path):
    trainer = make(tmp_path / "run", num_train_epochs=1)
    trainer.train()
    Path(trainer.state.best_model_checkpoint).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="output_dir must be on a disk all machines share"):
        trainer._load_best_model()


def test_a_run_that_is_over_does_not_train_on(make, undisturbed, tmp_path, monkeypatch, caplog):
    calls = []
    caplog.set_level("INFO", "smsa")
    monkeypatch.setattr(resumable, "keep_freed_memory", lambda: calls.append("memory"))
    trainer = make(tmp_path / "undisturbed")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.losses == [] and calls == ["memory"]
    assert_same(seen(trainer), undisturbed)
    assert "Early stopping has ended this run: 2 evaluations" in caplog.text
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
    assert "Early stopping" not in caplog.text


def test_a_callback_that_the_checkpoint_does_not_know_is_no_obstacle(make, tmp_path):
    make(tmp_path / "run", early_stopping_patience=0, num_train_epochs=1).train()
    trainer = make(tmp_path / "run", early_stopping_patience=2, num_train_epochs=2)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2 * STEPS_AN_EPOCH


def test_the_folder_may_move_between_two_parts_of_a_run(make, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(18)).train()
    STOP.signum = None
    shutil.move(tmp_path / "run", tmp_path / "moved")
    trainer = make(tmp_path / "moved")
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), undisturbed)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_any_damage_to_the_newest_checkpoint_is_named_and_the_older_one_used(make, undisturbed, tmp_path, caplog):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(13)).train()
    STOP.signum = None
    newest = tmp_path / "run" / "checkpoint-13"
    names = sorted(path.name for path in newest.iterdir())
    assert {"manifest.json", "trainer_state.json", "config.json", "tokenizer.json"} < set(names) and len(names) == 9
    n_cases = 0
    for name in names:
        for damage in (truncate, flip, Path.unlink, lambda path: path.write_bytes(b"")):
            case = tmp_path / "case"
            shutil.copytree(tmp_path / "run", case)
            damage(case / "checkpoint-13" / name)
            caplog.clear()
            found = Checkpoints(case).choose_newest()
            assert found == case / "checkpoint-10"
            assert f"checkpoint-13/{name} " in caplog.text and "is now damaged-checkpoint-13" in caplog.text
            assert (case / "damaged-checkpoint-13").is_dir() and not (case / "checkpoint-13").exists()
            trainer = make(case)
            trainer.train(resume_from_checkpoint=True)
            assert_same(seen(trainer), undisturbed)
            shutil.rmtree(case)
            n_cases += 1
    assert n_cases == 36


def test_a_damaged_best_checkpoint_is_not_trained_past(make, tmp_path, caplog):
    trainer = make(tmp_path / "run", AskAt(23))
    with pytest.raises(Stopped):
        trainer.train()
    best = tmp_path / "run" / f"checkpoint-{trainer.state.best_global_step}"
    flip(best / "model.safetensors")
    before = contents(tmp_path / "run")
    for _ in range(2):  # and it stays so: the run never starts from nothing by itself
        with pytest.raises(
            DamagedCheckpointError, match="holds no checkpoint that is whole .checkpoint-23: checkpoint-15"
        ):
            Checkpoints(tmp_path / "run").find_start()
        assert contents(tmp_path / "run") == before
    flip(best / "model.safetensors")  # put back
    assert Checkpoints(tmp_path / "run").choose_newest() == tmp_path / "run" / "checkpoint-23"


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
    STOP.signum = None
    checkpoint, ran = tmp_path / "run" / "checkpoint-2", tmp_path / "ran"
    if name == "rng_state.pth":
        torch.save({"python": Canary(ran)}, checkpoint / name)
    else:
        (checkpoint / name).write_bytes(pickle.dumps(Canary(ran)))
    if is_forged:  # by someone who knows how a manifest is made
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        (checkpoint / "manifest.json").unlink()
        forger = Checkpoints(tmp_path / "forged")
        forger.output_dir.mkdir()
        forger.commit(checkpoint, manifest["step"], manifest["best_step"], 1)
        shutil.move(forger.path_of(2), checkpoint)
        verify(checkpoint)
    with pytest.raises(DamagedCheckpointError, match="pickle of more than tensors" if is_forged else "that is whole"):
        make(tmp_path / "run").train(resume_from_checkpoint=True)
    assert not ran.exists()


def test_a_run_of_half_an_epoch_more_can_be_finished_after_its_last_step(make, tmp_path):
    """Steps are rounded up: the last checkpoint may lie beyond the epochs that were asked for."""
    trainer = make(tmp_path / "run", num_train_epochs=1.5, early_stopping_patience=0)
    trainer.train()
    assert trainer.state.global_step == 8 and trainer.state.epoch == 1.6
    trainer.require_resumable(trainer.state)
    trainer.args.num_train_epochs = 1.4
    with pytest.raises(ValueError, match="checkpoint-8 has trained for 1.6 epochs: --num_train_epochs cannot be less"):
        trainer.require_resumable(trainer.state)


def test_a_checkpoint_of_more_processes_is_refused(make, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    staged = tmp_path / "staged"
    staged.mkdir()
    for rank in range(2):
        (staged / f"rng_state_{rank}.pth").touch()
    checkpoints.commit(staged, 5, None, n_processes=2)
    with pytest.raises(ValueError, match="was made by 2 processes, these are 1"):
        make(tmp_path).train(resume_from_checkpoint=True)


def test_training_again_from_the_beginning_needs_a_folder_without_checkpoints(make, undisturbed, tmp_path):
    trainer = make(tmp_path / "undisturbed")
    with pytest.raises(
        FileExistsError, match="holds checkpoint-25, checkpoint-20, checkpoint-15: go on from the newest"
    ):
        trainer.train()
    with pytest.raises(FileExistsError, match="holds checkpoint-25, checkpoint-20: go on"):
        trainer.train(resume_from_checkpoint=tmp_path / "undisturbed" / "checkpoint-15")
    for newer in (20, 25):
        shutil.rmtree(tmp_path / "undisturbed" / f"checkpoint-{newer}")
    trainer.train(resume_from_checkpoint=tmp_path / "undisturbed" / "checkpoint-15")
    assert_same(seen(trainer), undisturbed)


@pytest.mark.parametrize("n_epochs", [2, 3])
def test_a_run_that_ended_without_an_evaluation_keeps_the_best_average(make, tmp_path, n_epochs):
    changes = {"ema_decay": 0.8, "evaluate_every": 2, "num_train_epochs": n_epochs, "early_stopping_patience": 0}
    trainer = make(tmp_path / "run", **changes)
    trainer.train()
    assert trainer.state.best_global_step == 2 * STEPS_AN_EPOCH
    best = [p.detach().clone() for p in trainer.model.parameters()]
    again = make(tmp_path / "run", **changes)
    again.train(resume_from_checkpoint=True)
    for judge in (trainer, again):
        judge.predict(judge.eval_dataset)
        assert all(torch.equal(a, b) for a, b in zip(judge.model.parameters(), best, strict=True))


def test_a_trainer_of_averages_trains_on_from_the_best_one(make, tmp_path):
    trainer = make(tmp_path / "run", ema_decay=0.8)
    trainer.train()
    best = [p.detach().clone() for p in trainer.model.parameters()]
    assert trainer.state.best_global_step < trainer.state.global_step
    trainer.optimizer.train()
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), best, strict=True))


def test_a_trainer_that_stopped_early_can_train_once_more(make, tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    n_steps = len(trainer.losses)
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    trainer.train()
    assert n_steps == 5 * STEPS_AN_EPOCH and len(trainer.losses) > n_steps


def test_training_seconds_add_up(make, tmp_path):
    with pytest.raises(Stopped):
        make(tmp_path / "run", AskAt(7)).train()
    STOP.signum = None
    state = json.loads((tmp_path / "run" / "checkpoint-7" / "trainer_state.json").read_text())
    before = state["stateful_callbacks"]["Stopwatch"]["attributes"]["seconds"]
    trainer = make(tmp_path / "run")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.stopwatch.seconds() > before > 0
    assert trainer.stopwatch.seconds() == trainer.stopwatch.seconds()  # it stands still when training has ended


@pytest.mark.parametrize("text_of", ["first batch", "last batch"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(make, rows, tokenizer, tmp_path, text_of):
    """One row holds a word of its own, whose embedding is poisoned after epoch 1."""
    trainer = make(tmp_path / "run")
    loader = trainer.get_train_dataloader()
    loader.set_epoch(1)
    order = list(loader.batch_sampler)
    batch = order[0] if text_of == "first batch" else order[-1]
    word = tokenizer.convert_tokens_to_ids("rapat")
    dataset = trainer.train_dataset.to_list()
    for row in dataset:
        row["input_ids"] = [1 if piece == word else piece for piece in row["input_ids"]]
    dataset[batch[0]]["input_ids"][1] = word
    trainer.train_dataset = type(trainer.train_dataset).from_list(dataset)

    class Poison(TrainerCallback):
        def on_epoch_begin(self, args, state, control, model=None, **kwargs):
            if state.epoch == 1:
                with torch.no_grad():
                    model.get_input_embeddings().weight[word] = float("nan")

    trainer.add_callback(Poison())
    with pytest.raises(FloatingPointError) as stopped:
        trainer.train()
    number = 1 if text_of == "first batch" else STEPS_AN_EPOCH
    listed = ", ".join(str(row + 1) for row in batch)
    assert f"in epoch 2, step {number} of the epoch, batch {number} of process 1: training rows {listed}." in str(
        stopped.value
    )
    assert trainer.state.global_step == STEPS_AN_EPOCH + number
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
    with pytest.raises(FloatingPointError, match="not finite"):
        train("always", lambda step: True)


def test_weights_that_are_not_finite_are_never_kept(make, tmp_path):
    """The update of the last step of epoch 2 breaks them, which no loss has seen yet."""

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2 * STEPS_AN_EPOCH:
                with torch.no_grad():
                    model.classifier.weight[0, 0] = float("inf")

    trainer = make(tmp_path / "run", Break())
    with pytest.raises(FloatingPointError, match="weights are not finite after step 10"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-5"]


def with_scaler(trainer):
    """Give a trainer what fp16 has on a GPU."""
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
    return trainer


def test_the_scaler_of_fp16_goes_on_too_or_is_left_behind(make, tmp_path):
    plain = with_scaler(make(tmp_path / "plain"))
    plain.train()
    assert "scaler.pt" in seen(plain)["files"] and plain.accelerator.scaler.get_scale() > 2.0**4
    for name in ("run", "other"):
        with pytest.raises(Stopped):
            with_scaler(make(tmp_path / name, AskAt(8))).train()
        STOP.signum = None
    trainer = with_scaler(make(tmp_path / "run"))
    trainer.train(resume_from_checkpoint=True)
    assert_same(seen(trainer), seen(plain))
    trainer = make(tmp_path / "other")  # now in fp32
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step > 8


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}], ids=["", "averaged"])
def test_a_disk_that_is_too_small_is_refused_before_training(make, tmp_path, monkeypatch, changes):
    trainer = make(tmp_path / "run", **changes)
    trainer.checkpoints.output_dir.mkdir(exist_ok=True)
    weights = sum(p.numel() for p in trainer.model.parameters()) * 4
    needed = 4 * (4 if changes else 3) * weights + weights  # four checkpoints with what Adam keeps, and the model
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, needed))
    trainer.require_space()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, needed - 1))
    with pytest.raises(NotWrittenError, match="MB free; the run needs"):
        trainer.require_space()


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

    with pytest.raises(NotWrittenError, match=r"checkpoint-15 could not be written to .* MB free on its disk\)"):
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

    reason = "is gone" if trouble == "vanished" else "Read-only file system"
    with pytest.raises(NotWrittenError, match=f"checkpoint-10 could not be written to .*{reason}"):
        make(run, AtEpoch(1, take_away)).train()
    assert "checkpoint-5/manifest.json" in before
    assert contents(small_disk / "elsewhere" if trouble == "vanished" else run) == before
    assert trouble != "vanished" or not run.exists()


# What smsa overrides or sets of Trainer that is private to it, with the parameters it has in 5.23.
PRIVATE = {
    "_clip_grad_norm": ["model"],
    "_save_checkpoint": ["model", "trial"],
    "_get_output_dir": ["trial"],
    "_init_training_state": [
        *("max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial")
    ],
    "_run_epoch": [
        *("model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial"),
        *("ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained"),
        "steps_trained_in_current_epoch",
    ],
    "_load_best_model": [],
    "_load_scaler": ["checkpoint"],
    "_remove_unused_columns": ["dataset", "description"],
    "_get_train_sampler": ["train_dataset"],
    "_get_eval_sampler": ["eval_dataset"],
}
USED = {
    "_save_checkpoint": [
        "self._get_output_dir(",
        "self.save_model(output_dir",
        "rng_state",
        "self.args.save_total_limit",
    ],
    "_inner_training_loop": ["self._init_training_state(", "self._run_epoch(\n                model=model,"],
    "_prepare_for_training": ["self._created_lr_scheduler"],
    "_finalize_training": ["self._load_best_model()", "self.state.best_model_checkpoint is not None"],
}


def test_an_upgrade_of_transformers_has_not_moved_what_is_overridden():
    from smsa.training.resumable import ResumableTrainer

    overridden = {name for name in vars(ResumableTrainer) if name.startswith("_") and not name.startswith("__")}
    assert overridden - {"_point_at_best"} == PRIVATE.keys()
    for name, parameters in PRIVATE.items():
        assert hasattr(Trainer, name), f"Trainer.{name} is gone: see smsa/resumable.py"
        assert list(inspect.signature(getattr(Trainer, name)).parameters)[1:] == parameters, f"Trainer.{name} changed"
    for name, pieces in USED.items():
        source = inspect.getsource(getattr(Trainer, name))
        for piece in pieces:
            assert piece in source, f"Trainer.{name} no longer has {piece!r}: see smsa/resumable.py"


def test_each_process_draws_dropout_of_its_own(make, tmp_path):
    [callback] = [c for c in make(tmp_path).callback_handler.callbacks if isinstance(c, OwnDropout)]
    drawn = {}
    for rank, world_size, step in ((0, 2, 0), (1, 2, 0), (1, 2, 3), (0, 1, 0)):
        torch.manual_seed(7)
        args = SimpleNamespace(seed=7, process_index=rank, world_size=world_size)
        callback.on_train_begin(args, TrainerState(global_step=step), TrainerControl())
        drawn[rank, world_size, step] = torch.rand(4).tolist()
    torch.manual_seed(7)
    alone = torch.rand(4).tolist()
    assert drawn[0, 1, 0] == drawn[1, 2, 3] == alone != drawn[1, 2, 0]  # a checkpoint has the state of each process
