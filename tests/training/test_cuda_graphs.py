"""Steps that are recorded and replayed do what steps do that are not."""

from unittest import mock

import pytest
import torch
from conftest import make_model
from trainers import At, ask_at, flatten, log_of, make_tiny_trainer

from smsa.training.cuda_graphs import StepRecorder

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: recordings are CUDA graphs")
pytestmark = [pytest.mark.gpu, no_gpu]


def make(output_dir, **changes):
    """Return a trainer with dropout, in fp32, for its differences to be those of rounding."""
    options = {"use_cpu": False, "fast_kernels": True, "num_train_epochs": 6, "early_stopping_patience": 0}
    options |= {"train_sampling_strategy": "group_by_length"} | changes
    # 37 rows: five steps an epoch, the last one short
    return make_tiny_trainer(output_dir, 37, 9, make_model(dropout=0.1), **options)


@pytest.fixture
def record():
    """A mock that counts the recordings."""
    with mock.patch.object(StepRecorder, "_record", autospec=True, side_effect=StepRecorder._record) as record:
        yield record


CHANGES = [
    {},
    {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 3, "max_grad_norm": 0.05},
    {"ema_decay": 0.9, "rdrop_alpha": 2.0, "class_weights": "1,5,2", "evaluate_every": 2},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes), "plain"))
def test_recorded_steps_equal_steps_that_are_not(tmp_path, record, changes):
    recorded, plain = make(tmp_path / "recorded", **changes), make(tmp_path / "plain", **changes)
    plain.records_steps = False
    for trainer in (recorded, plain):
        trainer.model.idle = torch.nn.Parameter(torch.ones(3, device="cuda"))  # which gets no gradient
        torch.manual_seed(0)
        trainer.train()
        assert trainer.model.idle.grad is None and torch.equal(trainer.model.idle.cpu(), torch.ones(3))
    assert record.call_count > 1
    assert len(recorded.losses) == len(plain.losses) > 24
    torch.testing.assert_close(torch.stack(recorded.losses), torch.stack(plain.losses), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(recorded.norms), torch.tensor(plain.norms), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flatten(recorded.model), flatten(plain.model), rtol=1e-3, atol=1e-4)
    for name in ("eval_f1", "eval_loss", "train_f1"):
        assert log_of(recorded, name) == pytest.approx(log_of(plain, name), rel=1e-3)


def test_a_resumed_run_ends_like_one_that_was_not_disturbed(tmp_path):
    whole = make(tmp_path / "whole")
    whole.train()

    cut = make(tmp_path / "cut")
    cut.add_callback(ask_at(17))
    with pytest.raises(SystemExit):
        cut.train()
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(flatten(again.model), flatten(whole.model), rtol=1e-3, atol=1e-4)
    assert again.state.best_global_step == whole.state.best_global_step


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_learns_and_overflows_are_skipped(tmp_path, record, precision):
    trainer = make(tmp_path / "run", precision=precision, num_train_epochs=30, lr_gamma=1.0)
    weights = []

    def overflow(state, model):
        if precision == "fp16":
            trainer.accelerator.scaler.scale(torch.ones((), device="cuda"))
            trainer.accelerator.scaler.update(2.0**30)  # overflows until it has been halved often enough

    trainer.add_callback(At("on_train_begin", overflow))
    trainer.add_callback(At("on_step_end", lambda _, model: weights.append(model.classifier.weight.detach().clone())))
    trainer.train()
    unchanged = [torch.equal(a, b) for a, b in zip(weights, weights[1:], strict=False)]
    if precision == "fp16":
        assert all(unchanged[:5]) and not any(unchanged[50:])
    else:
        assert not any(unchanged)
    assert all(weight.isfinite().all() for weight in weights)
    assert record.called
    assert torch.stack(trainer.losses[-5:]).mean() < torch.stack(trainer.losses[:5]).mean() * 0.7
