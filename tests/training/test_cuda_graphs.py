"""Steps that are recorded and replayed do what steps do that are not: on a GPU, and by a stand-in for its graphs."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import make_model
from smsa.training.signals import STOP, Stopped
from trainers import AskAt, make_trainer
from transformers import TrainerCallback

from smsa.training.cuda_graphs import StepRecorder

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: recordings are CUDA graphs")
N_ROWS = 37  # five steps an epoch, the last one short


@pytest.fixture
def make(tokenizer, rows):
    """A function that gets a trainer with dropout, in fp32, for its differences to be those of rounding."""

    def make(output_dir, **changes):
        options = {
            "use_cpu": not torch.cuda.is_available(),
            "fast_kernels": True,
            "num_train_epochs": 6,
            "early_stopping_patience": 0,
        }
        options |= {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"} | changes
        return make_trainer(make_model(dropout=0.1), tokenizer, rows(N_ROWS), rows(9), output_dir, **options)

    return make


@pytest.fixture
def recordings(monkeypatch):
    """A list that grows by one with each recording."""
    made, record = [], StepRecorder._record

    def count(*args):
        made.append(record(*args))
        return made[-1]

    monkeypatch.setattr(StepRecorder, "_record", count)
    return made


def state_of(trainer) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in trainer.model.state_dict().items()}


def scores_of(trainer) -> list[tuple]:
    return [(e["step"], e["eval_f1"], e["eval_loss"]) for e in trainer.state.log_history if "eval_f1" in e]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3},
        {"ema_decay": 0.9, "rdrop_alpha": 2.0, "class_weights": "1,5,2"},
        {"max_grad_norm": 0.05},
        {"evaluate_every": 2, "ema_decay": 0.9},
    ],
    ids=["", "accumulation", "mini", "clipping", "evaluations"],
)
def test_recorded_steps_equal_steps_that_are_not(tmp_path, make, recordings, changes):
    recorded, plain = make(tmp_path / "recorded", **changes), make(tmp_path / "plain", **changes)
    plain.records_steps = False
    for trainer in (recorded, plain):
        torch.manual_seed(0)
        trainer.train()
    assert len(recordings) > 1
    assert len(recorded.losses) == len(plain.losses) > 24
    torch.testing.assert_close(torch.stack(recorded.losses), torch.stack(plain.losses), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(recorded.norms), torch.tensor(plain.norms), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state_of(recorded), state_of(plain), rtol=1e-3, atol=1e-4)
    for one, other in zip(scores_of(recorded), scores_of(plain), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    trained = [entry["train_f1"] for entry in recorded.state.log_history if "train_f1" in entry]
    assert trained == pytest.approx([e["train_f1"] for e in plain.state.log_history if "train_f1" in e], rel=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_parameter_without_gradient_stays_without(tmp_path, make, recordings):
    trainer = make(tmp_path / "run")
    trainer.model.idle = torch.nn.Parameter(torch.ones(3, device="cuda"))
    trainer.train()
    assert recordings
    assert trainer.model.idle.grad is None and torch.equal(trainer.model.idle.cpu(), torch.ones(3))


@pytest.mark.gpu
@needs_gpu
def test_a_run_that_is_gone_on_with_ends_like_one_that_was_not_disturbed(tmp_path, make):
    whole = make(tmp_path / "whole")
    whole.train()

    cut = make(tmp_path / "cut")
    cut.add_callback(AskAt(17))
    with pytest.raises(Stopped):
        cut.train()
    STOP.signum = None
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(state_of(again), state_of(whole), rtol=1e-3, atol=1e-4)
    assert again.state.best_global_step == whole.state.best_global_step


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns_and_overflows_are_skipped(tmp_path, make, recordings, precision):
    trainer = make(tmp_path / "run", precision=precision, num_train_epochs=30, lr_gamma=1.0)
    weights = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if precision == "fp16":
                trainer.accelerator.scaler.scale(torch.ones((), device="cuda"))
                trainer.accelerator.scaler.update(2.0**30)  # overflows until it has been halved often enough

        def on_step_end(self, args, state, control, model=None, **kwargs):
            weights.append(model.classifier.weight.detach().clone())

    trainer.add_callback(Watch())
    trainer.train()
    unchanged = [torch.equal(a, b) for a, b in zip(weights, weights[1:], strict=False)]
    if precision == "fp16":
        assert all(unchanged[:5]) and not any(unchanged[50:])
    else:
        assert not any(unchanged)
    assert all(weight.isfinite().all() for weight in weights)
    assert recordings
    assert torch.stack(trainer.losses[-5:]).mean() < torch.stack(trainer.losses[:5]).mean() * 0.7


class Replay:
    """What a CUDA graph is to a recorder, on a CPU: does the step again with what lies in the places, and no more."""

    def __init__(self, trainer, step, places, loss):
        self.trainer, self.step, self.places, self.loss = trainer, step, places, loss

    def replay(self):
        *inputs, n_items = self.places.values()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.trainer.optimizer, "train", lambda: None)
            self.loss.copy_(self.step(dict(zip(self.places, inputs, strict=False)), n_items))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3},
        {"ema_decay": 0.9, "rdrop_alpha": 2.0},
        {"ema_decay": 0.9, "evaluate_every": 2},
    ],
    ids=["", "accumulation", "mini", "evaluations"],
)
def test_a_recorder_gives_a_recording_all_that_it_reads_and_keeps_gradients_in_place(
    tmp_path, make, monkeypatch, changes
):
    recorded, plain = (make(tmp_path / name, use_cpu=True, **changes) for name in ("recorded", "plain"))
    n_recordings, gradients = 0, set()

    def stand_in(recorder, step, model, inputs, n_items):
        nonlocal n_recordings
        n_recordings += 1
        places = {name: torch.full_like(values, 77) for name, values in (inputs | {"n_items": n_items}).items()}
        loss = torch.zeros(())
        return Replay(recorded, partial(step, model), places, loss), list(places.values()), loss

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.add(tuple(p.grad.data_ptr() for p in model.parameters()))

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(StepRecorder, "_record", stand_in)
    recorded.records_steps = True
    recorded.add_callback(Watch())
    for trainer in (recorded, plain):
        torch.manual_seed(0)
        trainer.train()
    assert 1 < n_recordings < len(recorded.losses) and len(gradients) == 1
    assert torch.equal(torch.stack(recorded.losses), torch.stack(plain.losses))
    assert recorded.norms == plain.norms
    torch.testing.assert_close(state_of(recorded), state_of(plain), rtol=0, atol=0)
    assert scores_of(recorded) == scores_of(plain)
    assert recorded.recorder is None and "zero_grad" not in vars(recorded.model)
    assert all(p.grad is None for p in recorded.model.parameters())


@pytest.mark.parametrize(
    "reason", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory")]
)
def test_where_memory_does_not_suffice_steps_run_as_they_are(tmp_path, make, monkeypatch, caplog, reason):
    recorded, plain = (make(tmp_path / name, use_cpu=True) for name in ("recorded", "plain"))
    n_recordings = 0

    def fail_from_the_third_on(recorder, step, model, inputs, n_items):
        nonlocal n_recordings
        n_recordings += 1
        if n_recordings == 3:
            raise reason
        places = {name: torch.zeros_like(values) for name, values in (inputs | {"n_items": n_items}).items()}
        loss = torch.zeros(())
        return Replay(recorded, partial(step, model), places, loss), list(places.values()), loss

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(StepRecorder, "_record", fail_from_the_third_on)
    recorded.records_steps = True
    for trainer in (recorded, plain):
        torch.manual_seed(0)
        trainer.train()
    assert n_recordings == 3 and "Too little memory to record steps" in caplog.text
    torch.testing.assert_close(state_of(recorded), state_of(plain), rtol=0, atol=0)


def test_gradients_that_were_dropped_are_put_back(monkeypatch):
    """Else a recording would add to places that no optimiser looks at."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    model = torch.nn.Linear(2, 1, bias=False)
    place = torch.full((1, 2), 5.0)
    graph = SimpleNamespace(replay=lambda: place.add_(1.0))
    recorder = StepRecorder(model)

    def step(model, inputs, n_items):
        model.weight.grad = place if model.weight.grad is None else model.weight.grad
        return torch.zeros(())

    monkeypatch.setattr(recorder, "_record", lambda *args: (graph, [torch.zeros(3), torch.zeros(())], torch.zeros(())))
    for _ in range(3):
        model.weight.grad = None
        recorder(step, model, {"input_ids": torch.zeros(3)}, torch.zeros(()))
        assert model.weight.grad is place
    assert torch.equal(place, torch.ones(1, 2))  # of the last step alone


def test_gpus_alone_have_recordings(tmp_path, make):
    assert not make(tmp_path / "run", use_cpu=True).records_steps


@pytest.mark.slow
def test_a_model_that_accelerate_has_wrapped_is_not_recorded(tmp_path, make, monkeypatch):
    """As for several processes, or to be compiled; Trainer then drops its gradients, by the wrapper."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(StepRecorder, "__call__", None)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    trainer = make(tmp_path / "run", use_cpu=True, num_train_epochs=1)
    trainer.records_steps = True
    trainer.train()
    assert trainer.model_wrapped is not trainer.model
    assert len(trainer.losses) == 5
