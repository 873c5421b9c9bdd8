"""Averaged weights: what the average is, who has it when, and that evaluation and checkpoints are of it."""

import copy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from trainers import At, flatten, make_tiny_trainer

from smsa.training.ema import EmaAdamW


def test_a_step_that_an_overflow_leaves_out_is_not_averaged():
    weights = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = EmaAdamW([weights], 0.9, lr=0.1, fused=True)
    for found_inf in (0.0, 0.0, 1.0):
        before = weights.detach().clone(), copy.deepcopy(optimizer.state[weights].get("average"))
        optimizer.zero_grad()
        (weights**4).sum().backward()
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(found_inf)  # as GradScaler sets them
        optimizer.step()
    assert torch.equal(weights, before[0]) and torch.equal(optimizer.state[weights]["average"], before[1])


WAYS = [{}, {"evaluate_every": 2}, {"evaluate_every": 2, "save_strategy": "best"}, {"load_best_model_at_end": False}]


@pytest.mark.parametrize("choose", WAYS)
def test_scores_checkpoints_and_the_model_in_the_end_are_of_the_average_that_training_does_not_see(tmp_path, choose):
    """The average by hand; the steps are those of a training without one."""
    changes = {"num_train_epochs": 3, "learning_rate": 1e-2, "early_stopping_patience": 0, **choose}
    plain = make_tiny_trainer(tmp_path / "plain", 30, 20, **changes)
    plain.train()
    make = partial(make_tiny_trainer, tmp_path / "run", 30, 20, ema_decay=0.6, **changes)
    trainer, after_step, evaluated = make(), [], []
    trainer.add_callback(At("on_step_end", lambda _, model: after_step.append(flatten(model))))
    trainer.add_callback(At("on_evaluate", lambda _, model: evaluated.append(flatten(model))))
    trainer.train()
    assert torch.equal(torch.stack(trainer.losses), torch.stack(plain.losses))
    n_steps, average, averages = len(after_step) // 3, after_step[0], []
    for step, weights in enumerate(after_step, start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
        averages += [average] if step % n_steps == 0 else []
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    for found, expected in zip(evaluated, averages[1::2] if "evaluate_every" in choose else averages, strict=True):
        close(found, expected)
    final, best = flatten(trainer.model), trainer.state.best_global_step
    if not trainer.args.load_best_model_at_end:
        close(final, averages[-1])
        return
    close(final, averages[best // n_steps - 1])
    kept = load_file(tmp_path / "run" / f"checkpoint-{best}" / "model.safetensors")
    assert all(torch.equal(weights, kept[name]) for name, weights in trainer.model.named_parameters())
    again = make()
    again.train(resume_from_checkpoint=True)
    for either in (trainer, again):  # also where the run ended without an evaluation
        either.predict(trainer.eval_dataset)
        assert torch.equal(flatten(either.model), final)
