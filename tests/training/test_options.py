"""Trainer's own options do what Trainer says that they do, and what ran is what is recorded."""

import copy

import pytest
import torch
from conftest import make_model
from torch.nn import functional
from trainers import make_trainer
from transformers import TrainerCallback


@pytest.fixture
def train(tmp_path, tiny_model, tokenizer, rows):
    """A function that trains a copy of the tiny model with some options; get the trainer."""

    def train(name="run", callback=None, n_rows=16, **options):
        options = {"num_train_epochs": 2, "early_stopping_patience": 0} | options
        model = copy.deepcopy(tiny_model)
        trainer = make_trainer(model, tokenizer, rows(n_rows), rows(7), tmp_path / name, **options)
        if callback is not None:
            trainer.add_callback(callback)
        trainer.train()
        return trainer

    return train


def weights_of(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_schedules_of_trainer_warm_up_and_fall_step_by_step(train):
    trainer = train(lr_scheduler_type="linear", warmup_steps=2, learning_rate=1e-3)
    assert trainer.rates == pytest.approx([0, 5e-4, 1e-3, 5e-4])
    assert trainer.args.to_dict()["lr_scheduler_type"] == "linear"
    assert train("step").args.to_dict()["lr_scheduler_type"] == "epoch_step"


def test_weight_decay_shrinks_all_weights_but_biases_and_norms(train):
    plain, decayed = train("plain", max_steps=1), train("decayed", max_steps=1, weight_decay=0.5)
    for (name, a), b in zip(plain.model.named_parameters(), decayed.model.parameters(), strict=True):
        shrinks = not (name.endswith("bias") or "LayerNorm" in name)
        assert torch.equal(a, b) is not shrinks or not a.any(), name


def test_other_optimisers_are_taken(train):
    trainer = train(optim="sgd", learning_rate=0.1)
    assert type(trainer.optimizer.optimizer) is torch.optim.SGD
    assert trainer.args.to_dict()["optim"] == "sgd"


def test_label_smoothing_is_in_the_training_loss_only(tmp_path, tokenizer, rows):
    trainer = make_trainer(make_model(), tokenizer, rows(8), rows(8), tmp_path, label_smoothing_factor=0.2)
    batch = trainer.data_collator([dict(row) for row in rows(8)])
    for is_training, smoothing in ((True, 0.2), (False, 0.0)):
        trainer.model.train(is_training)
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
        expected = functional.cross_entropy(outputs.logits, batch["labels"], label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)


def test_the_loss_is_logged_by_steps_and_goes_to_reporters(train):
    logged = []

    class Report(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logged.append(dict(logs))

    trainer = train(callback=Report(), logging_strategy="steps", logging_steps=1)
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert losses == pytest.approx([loss.item() for loss in trainer.losses])
    assert sum("train_f1" in entry for entry in logged) == 2


def test_gradient_checkpointing_computes_the_same(train):
    plain, saving = train("plain"), train("saving", gradient_checkpointing=True)
    assert torch.allclose(weights_of(plain), weights_of(saving), atol=1e-6)


def test_evaluation_and_checkpoints_by_steps(train, tmp_path):
    trainer = train(
        eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3, n_rows=32, num_train_epochs=3
    )
    assert [entry["step"] for entry in trainer.state.log_history if "eval_f1" in entry] == [3, 6, 9, 12]
    trainer = train("few", num_train_epochs=5, save_total_limit=1)
    kept = {f"checkpoint-{trainer.state.global_step}", f"checkpoint-{trainer.state.best_global_step}"}
    assert {path.name for path in (tmp_path / "few").glob("checkpoint-*")} <= kept


def test_a_loss_of_ones_own_is_taken(tmp_path, tiny_model, tokenizer, rows):
    seen = []

    def loss_of_ones_own(outputs, labels, num_items_in_batch=None):
        seen.append(len(labels))
        return functional.cross_entropy(outputs.logits, labels)

    trainer = make_trainer(tiny_model, tokenizer, rows(16), rows(7), tmp_path, num_train_epochs=1)
    trainer.compute_loss_func = loss_of_ones_own
    trainer.train()
    assert seen[:2] == [8, 8]


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(train):
    plain, compiled = train("plain", max_steps=2), train("compiled", max_steps=2, torch_compile=True)
    assert torch.allclose(weights_of(plain), weights_of(compiled), atol=1e-4)
