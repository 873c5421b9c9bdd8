"""What training computes: the same whatever the batching, by the schedule in every situation that could shift it."""

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from tqdm.auto import tqdm
from trainers import RecordingTrainer, flatten, log_of, make_rows, make_tiny_trainer
from transformers import DataCollatorWithPadding, TrainerCallback, TrainingArguments

from smsa.data.datasets import PaddingCollator
from smsa.errors import UserError
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.length_groups import LengthGroupedSampler
from smsa.training.trainer import SentimentTrainer


def make(output_dir, n_train=16, n_valid=7, **options) -> RecordingTrainer:
    """Return a trainer of two epochs."""
    options = {"num_train_epochs": 2, "early_stopping_patience": 0} | options
    return make_tiny_trainer(output_dir, n_train, n_valid, **options)


def train(output_dir, **options) -> RecordingTrainer:
    """Return one that has trained."""
    trainer = make(output_dir, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "n_train, options",  # whole steps; a last step of three rows
    [(24, {}), (19, {"class_weights": "1,5,2"}), (19, {"ema_decay": 0.9, "rdrop_alpha": 2.0})],
    ids=["plain", "weights", "mini"],
)
def test_batch_8_equals_batch_2_accumulated_4_times(tmp_path, tiny_model, n_train, options):
    options = {"n_train": n_train, "model": tiny_model.double(), "max_grad_norm": 0.5, **options}
    whole = train(tmp_path / "whole", per_device_train_batch_size=8, **options)
    parts = train(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert len(whole.norms) == len(parts.norms) == 6
    assert max(whole.norms) > 0.5  # clipping acted
    # in fp64, where nothing but a fault reaches these: see test_distributed.py
    assert parts.norms == pytest.approx(whole.norms, rel=1e-9)
    assert (flatten(whole.model) - flatten(parts.model)).abs().max() < 1e-9
    assert log_of(parts, "train_loss") == pytest.approx(log_of(whole, "train_loss"), rel=1e-5)


def test_the_learning_rate_steps_by_epoch_and_every_third_is_evaluated_until_patience_ends(tmp_path):
    decay = {"learning_rate": 2.0**-40, "lr_step_size": 2, "lr_gamma": 0.5}
    batches = {"n_train": 37, "gradient_accumulation_steps": 3}  # five batches, two steps an epoch
    trainer = train(tmp_path, num_train_epochs=20, evaluate_every=3, early_stopping_patience=2, **decay, **batches)
    rates = [2.0 ** -(40 + epoch // 2) for epoch in range(9)]
    assert log_of(trainer, "learning_rate") == rates
    assert trainer.rates == [rate for rate in rates for _ in range(5)]
    evaluated = [entry["epoch"] for entry in trainer.state.log_history if "eval_f1" in entry]
    assert evaluated == [3, 6, 9]  # the first is the best; two more are not better
    assert (trainer.state.best_global_step, trainer.state.global_step) == (6, 18)
    trainer.create_model_card()  # as Trainer's push_to_hub does
    assert "lr_scheduler_type: epoch_step" in (tmp_path / "README.md").read_text()
    assert type(trainer.args.lr_scheduler_type)("linear") == "linear"  # as a search over schedules sets it


@pytest.mark.parametrize("n_rows", [1, 7, 130])
def test_evaluation_gives_each_row_once_in_order_with_the_exact_loss(tmp_path, n_rows):
    trainer = make(tmp_path, n_valid=n_rows, train_sampling_strategy="group_by_length", per_device_eval_batch_size=4)
    output, rows, model = trainer.predict(trainer.eval_dataset), trainer.eval_dataset, trainer.model.eval()
    with torch.no_grad():
        one_by_one = torch.cat([model(torch.tensor([ids])).logits for ids in rows["input_ids"]])
    gold = torch.tensor(rows["label"])
    np.testing.assert_allclose(output.predictions, one_by_one, atol=1e-5)
    assert output.label_ids.tolist() == gold.tolist()
    assert output.metrics["test_loss"] == pytest.approx(functional.cross_entropy(one_by_one, gold).item(), rel=1e-5)
    assert output.metrics["test_accuracy"] == (one_by_one.argmax(-1) == gold).double().mean().item()
    unlabelled = trainer.predict(rows.remove_columns("label"))
    np.testing.assert_allclose(unlabelled.predictions, output.predictions, atol=1e-6)
    assert unlabelled.label_ids is None


def test_training_scores_are_those_of_the_logits_that_training_made(tmp_path):
    """With a learning rate of nearly 0 and no dropout, training sees what evaluation sees."""
    trainer = train(tmp_path, n_train=30, n_valid=30, model=make_model(seed=3), learning_rate=1e-12)
    for name in ("f1", "accuracy", "recall", "precision", "f1_neutral", "n_neutral"):
        assert log_of(trainer, f"train_{name}") == log_of(trainer, f"eval_{name}")
    made = log_of(trainer, "train_loss")
    assert len(made) == 2 and made == pytest.approx(log_of(trainer, "eval_loss"), rel=1e-5)


def test_length_groups_hold_each_text_once_in_another_order_each_epoch_without_drift(tmp_path):
    trainer = make(tmp_path, n_train=37, train_sampling_strategy="group_by_length", data_seed=0)
    sampler = trainer.get_train_dataloader().batch_sampler.sampler
    assert (type(sampler), len(sampler), sampler.step_size, sampler.seed) == (LengthGroupedSampler, 37, 8, 0)
    trainer.train_dataset = [dict(row) for row in trainer.train_dataset]  # as a torch Dataset of one's own
    assert trainer._get_train_sampler().lengths.tolist() == sampler.lengths.tolist()
    for n in (0, 7, 8, 9):
        assert sorted(LengthGroupedSampler([5] * n, step_size=8, seed=0)) == list(range(n))
    lengths = torch.randint(5, 90, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler, orders = LengthGroupedSampler(lengths, step_size=16, seed=3), []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(1003))
        longest = [max(lengths[i] for i in orders[-1][start : start + 16]) for start in range(0, 992, 16)]
        assert 16 * sum(longest) < 1.1 * sum(lengths)  # in random order 1.8 times
        assert 0.3 < np.mean(np.diff(longest) > 0) < 0.7  # not from long to short
    assert orders[0] == orders[2] != orders[1]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    multiple=st.sampled_from([None, 8]),
    side=st.sampled_from(["right", "left"]),
    names=st.sampled_from([(), ("token_type_ids", "attention_mask"), ("attention_mask", "weight")]),
    padding=st.sampled_from([True, "max_length"]),
)
def test_the_collator_pads_as_its_parent_does(lengths, multiple, side, names, padding):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    texts = [
        {"input_ids": [7 + i] * n, "label": n % 3} | {name: [1] * n if name != "weight" else n for name in names}
        for i, n in enumerate(lengths)
    ]
    kinds = DataCollatorWithPadding, PaddingCollator
    expected, batch = (kind(tokenizer, padding, pad_to_multiple_of=multiple)([*map(dict, texts)]) for kind in kinds)
    assert expected.keys() == batch.keys()
    for name, values in expected.items():
        assert torch.equal(values, batch[name]) and values.dtype == batch[name].dtype, name


def test_the_collator_stops_where_the_encoder_does():
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 60
    texts = [{"input_ids": [7] * n, "attention_mask": [1] * n, "label": 0} for n in (60, 3)]
    assert PaddingCollator(tokenizer, pad_to_multiple_of=8)(texts)["input_ids"].shape == (2, 60)


def test_class_weights_by_hand(tmp_path):
    trainer = make(tmp_path, class_weights="balanced")
    trainer.labels, label_ids = ("a", "b", "of no text", "c"), [0, 0, 0, 1, 3, 3]
    own = [[{name: torch.tensor(label_id)} for label_id in label_ids] for name in ("label", "labels")]
    for trainer.train_dataset in (Dataset.from_dict({"label": label_ids}), *own):  # own: a torch Dataset of one's own
        trainer.weigh_labels()
        assert trainer.class_weights.tolist() == pytest.approx([6 / 9, 6 / 3, 1, 6 / 6])
    for spec in ("1,2", "1,2,x", "1,2,-1", "1,2,nan", "1,2,inf", "Balanced"):
        with pytest.raises(ValueError, match="or a positive number for each of positive, neutral, negative, in"):
            make(tmp_path, class_weights=spec)


def test_class_weights_and_label_smoothing_are_in_the_training_loss_only(tmp_path):
    trainer, weights = make(tmp_path, class_weights="1,3,1", label_smoothing_factor=0.2), torch.tensor([1.0, 3.0, 1.0])
    batch = trainer.data_collator([dict(row) for row in make_rows(8)])
    for is_training, options in ((True, {"weight": weights, "label_smoothing": 0.2}), (False, {})):
        trainer.model.train(is_training)
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
        expected = functional.cross_entropy(outputs.logits, batch["labels"], reduction="sum", **options) / 8
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("n", [8, 5])  # texts of eight that count, as in the last step of an epoch of two processes
def test_rdrop_adds_the_divergence_of_two_draws_of_dropout(tmp_path, n):
    """By hand: the cross entropy of both draws, and alpha times the mean of both KL divergences; half of it."""
    trainer, seen = make(tmp_path, model=make_model(dropout=0.3), rdrop_alpha=0.5), {}
    batch = trainer.data_collator([dict(row) for row in make_rows(8)])
    batch["labels"][n:] = -100
    trainer.model.register_forward_hook(lambda module, inputs, outputs: seen.update(logits=outputs.logits))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=n)
    assert seen["logits"].shape == (16, 3)
    first, second = (logits[:n] for logits in seen["logits"].chunk(2))
    assert not torch.allclose(first, second)
    entropy = [functional.cross_entropy(logits, batch["labels"][:n]) for logits in (first, second)]
    p, q = (torch.distributions.Categorical(logits=logits) for logits in (first, second))
    divergence = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)).mean() / 2
    torch.testing.assert_close(2 * loss, entropy[0] + entropy[1] + 0.5 * divergence)  # as the paper writes it
    loss_sum, *counts = trainer.progress.totals.tolist()
    assert loss_sum / n == pytest.approx(sum(entropy).item() / 2)  # what is printed is cross entropy only
    assert sum(counts) == n
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=n)
    assert seen["logits"].shape == (8, 3)
    torch.testing.assert_close(plain, functional.cross_entropy(seen["logits"][:n], batch["labels"][:n]))


def test_bf16_on_a_cpu_differs_from_fp32_by_rounding_only(tmp_path):
    options = {"n_train": 64, "model": make_model(dropout=0.1), "num_train_epochs": 1}
    trained = [train(tmp_path, **options, **way) for way in ({}, {"precision": "bf16"}, {"fast_kernels": True})]
    fp32, bf16, fast = (torch.stack(trainer.losses) for trainer in trained)
    assert 0 < (bf16 - fp32).abs().max() < 1e-3 < (fast - fp32).abs().max()  # the last draws other dropout
    for trainer, kind in zip(trained[1:], ("eager", "smsa_quick"), strict=True):
        assert trainer.model.config._attn_implementation == kind
        trainer.save_model(tmp_path / kind)
        assert kind not in (tmp_path / kind / "config.json").read_text()  # it loads as any other


def test_an_unknown_metric_is_refused_a_schedule_with_what_it_needs_and_arguments_of_trainer(tmp_path):
    with pytest.raises(TypeError, match="args must be SentimentTrainingArguments"):
        SentimentTrainer(make_model(), TrainingArguments(str(tmp_path)))
    with pytest.raises(UserError, match=r"'n_neutral' is not one of \['accuracy', 'f1', "):
        make(tmp_path, metric_for_best_model="n_neutral")  # the same after every epoch
    with pytest.raises(UserError, match="--lr_scheduler_kwargs do not fit warmup_stable_decay: .* 'num_decay_steps'"):
        train(tmp_path, lr_scheduler_type="warmup_stable_decay")


def test_options_of_trainer_do_what_trainer_says(tmp_path):
    options = {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 0.5, "lr_scheduler_type": "linear"}
    by_steps = {"logging_strategy": "steps", "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3}
    by_steps |= {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1}
    trainer = train(tmp_path, n_train=32, warmup_steps=2, **options, **by_steps)
    assert trainer.rates == pytest.approx([0, 0.05, *(0.1 * i / 6 for i in range(6, 0, -1))])
    assert type(trainer.optimizer.optimizer) is torch.optim.SGD
    assert log_of(trainer, "loss") == pytest.approx([loss.item() for loss in trainer.losses])
    assert [entry["step"] for entry in trainer.state.log_history if "eval_f1" in entry] == [3, 6, 8]
    assert len(log_of(trainer, "train_f1")) == 2
    best, kept = f"checkpoint-{trainer.state.best_global_step}", {path.name for path in tmp_path.iterdir()}
    assert {best} <= kept <= {best, "checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_bars_are_left_out_on_request_and_the_table_for_notebooks_always(tmp_path, capfd, monkeypatch, disable_tqdm):
    table = type("Table", (TrainerCallback,), {})
    for home in ("transformers", "smsa.training"):
        monkeypatch.setattr(f"{home}.trainer.DEFAULT_PROGRESS_CALLBACK", table)
    rare = "transformers.trainer_callback.tqdm", lambda **options: tqdm(mininterval=60, **options)  # TQDM_MININTERVAL
    monkeypatch.setattr(*rare)
    trainer = train(tmp_path, num_train_epochs=1, disable_tqdm=disable_tqdm)
    assert "Table" not in trainer.callback_handler.callback_list
    printed = capfd.readouterr()
    assert "LR:0.00100000:   0%" not in printed.err  # not drawn at each step, which would fill a log file
    assert ("| 0/2" in printed.err) is not disable_tqdm and "(Epoch 1) VALID LOSS" in printed.out
    train(tmp_path / "steps", num_train_epochs=1, disable_tqdm=disable_tqdm, logging_strategy="steps", logging_steps=1)
    assert capfd.readouterr().out.count("{'loss'") == 2


def test_a_loss_and_metrics_of_ones_own_are_taken(tmp_path, tiny_model, tokenizer, capfd):
    own = {"compute_loss_func": lambda outputs, labels, **_: outputs.logits.sum() * 0 + len(labels)}
    own["compute_metrics"] = lambda _: {"f1": 0.5, "mine": 0.7}
    args = SentimentTrainingArguments(str(tmp_path), max_steps=1, metric_for_best_model="mine", use_cpu=True)
    trainer = SentimentTrainer(tiny_model, args, make_rows(16), make_rows(7), processing_class=tokenizer, **own)
    assert (trainer.train().training_loss, trainer.state.best_metric) == (16, 0.7)
    assert "{'loss': '16'" in capfd.readouterr().out  # for want of scores of the epoch


def test_of_several_sets_to_evaluate_on_one_is_chosen_by(tmp_path):
    sets = {"a": make_rows(7), "b": make_rows(20)}
    args = SentimentTrainingArguments(str(tmp_path), num_train_epochs=2, metric_for_best_model="b_loss", use_cpu=True)
    trainer = SentimentTrainer(make_model(), args, make_rows(16), sets, processing_class=make_tokenizer())
    trainer.train()
    assert trainer.state.best_metric == min(log_of(trainer, "eval_b_loss")) and len(log_of(trainer, "eval_a_f1")) == 2


CHANGES = [{"ema_decay": 0.5, "learning_rate": 1e-2}, {"ema_decay": 0.0, "class_weights": "none"}]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: list(changes)[-1])
def test_each_trial_of_a_search_has_a_model_of_its_own_and_goes_by_the_arguments_that_were_changed(tmp_path, changes):
    trainers, before = [], {"ema_decay": 0.9, "class_weights": "1,3,2", "num_train_epochs": 1, "precision": "no"}
    for options in (before, before | changes):
        args = SentimentTrainingArguments(str(tmp_path / str(len(trainers))), use_cpu=True, **options)
        parts = {"processing_class": make_tokenizer(), "train_dataset": make_rows(16), "eval_dataset": make_rows(7)}
        trainers.append(SentimentTrainer(model_init=lambda: make_model(), args=args, **parts))
        trainers[-1].train()
    first, expected = trainers
    vars(first.args).update(changes)
    first.model = None  # as a search leaves it after a trial
    first.train()
    assert torch.equal(flatten(first.model), flatten(expected.model))


def test_a_second_training_starts_with_an_optimizer_of_the_class_that_was_given(tmp_path):
    args = SentimentTrainingArguments(str(tmp_path), use_cpu=True, num_train_epochs=1, precision="no")
    parts = {"processing_class": make_tokenizer(), "optimizer_cls_and_kwargs": (torch.optim.Adam, {"lr": 1e-3})}
    trainer = SentimentTrainer(make_model(), args, make_rows(16), make_rows(7), **parts)
    for _ in range(2):
        trainer.train()
        assert {state["step"].item() for state in trainer.optimizer.state_dict()["state"].values()} == {1}
    args.ema_decay = 0.9
    with pytest.raises(UserError, match="ema_decay needs AdamW: give no optimiser of your own"):
        SentimentTrainer(make_model(), args, make_rows(16), make_rows(7), **parts)


OTHER_WAYS = [{"gradient_checkpointing": True}, {"remove_unused_columns": False}, {"debug": "underflow_overflow"}]
OTHER_WAYS += [pytest.param({"torch_compile": True}, marks=pytest.mark.slow)]


@pytest.mark.parametrize("options", OTHER_WAYS)
def test_other_ways_to_compute_learn_the_same(tmp_path, options):
    plain, other = train(tmp_path / "plain", max_steps=2), train(tmp_path / "other", max_steps=2, **options)
    tolerance = {"torch_compile": 1e-4, "debug": 1e-6}.get(*options, 0)
    assert torch.allclose(flatten(plain.model), flatten(other.model), atol=tolerance)
