"""Equivalences that hold whatever the batching, and the schedule in every situation that could shift it."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from trainers import make_trainer
from transformers import DataCollatorWithPadding, TrainerCallback, pipeline

from smsa.training.collation import LengthGroupedSampler, PaddingCollator
from smsa.training.trainer import resolve_class_weights


def weights_of(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("n_rows", [24, 19])  # whole steps; a last step of three rows
@pytest.mark.parametrize(
    "options", [{}, {"class_weights": "1,5,2"}, {"ema_decay": 0.9, "rdrop_alpha": 2.0}], ids=["", "weights", "mini"]
)
def test_batch_8_equals_batch_2_accumulated_4_times(tmp_path, tiny_model, tokenizer, rows, n_rows, options):
    def train(name, **batches):
        trainer = make_trainer(
            copy.deepcopy(tiny_model).double(), tokenizer, rows(n_rows), rows(7), tmp_path / name, num_train_epochs=2,
            max_grad_norm=0.5, **options, **batches,
        )  # fmt: skip
        trainer.train()
        return trainer

    whole = train("whole", per_device_train_batch_size=8)
    parts = train("parts", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert len(whole.norms) == len(parts.norms) == 6
    assert max(whole.norms) > 0.5  # clipping acted
    # in fp64, where nothing but a fault reaches these: see tests/test_distributed.py
    assert parts.norms == pytest.approx(whole.norms, rel=1e-9)
    assert (weights_of(whole) - weights_of(parts)).abs().max() < 1e-9
    history = [[e["train_loss"] for e in t.state.log_history if "train_f1" in e] for t in (whole, parts)]
    assert history[0] == pytest.approx(history[1], rel=1e-5)


def test_every_parameter_moves(tmp_path, tiny_model, tokenizer, rows):
    before = {name: p.detach().clone() for name, p in tiny_model.named_parameters()}
    make_trainer(tiny_model, tokenizer, rows(16), rows(7), tmp_path / "run", num_train_epochs=1).train()
    still = [name for name, p in tiny_model.named_parameters() if torch.equal(p, before[name])]
    # of the embeddings only rows that occur move; the bias of the keys cancels out in softmax, up to rounding
    assert [name for name in still if not name.endswith("key.bias")] == []


RATES = [1e-3, 1e-3, 1e-3 * 0.5, 1e-3 * 0.5, 1e-3 * 0.5 * 0.5]  # step size 2, gamma 0.5


def rates_by_epoch(trainer) -> list[float]:
    return [e["learning_rate"] for e in trainer.state.log_history if "train_f1" in e]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_rate_is_steplr_by_epoch(tmp_path, tiny_model, tokenizer, rows, accumulation):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(37), rows(7), tmp_path / "run", num_train_epochs=5, lr_step_size=2, lr_gamma=0.5,
        gradient_accumulation_steps=accumulation, early_stopping_patience=0,
    )  # fmt: skip
    trainer.train()
    assert rates_by_epoch(trainer) == RATES
    assert trainer.rates == [rate for rate in RATES for _ in range(5)]  # five batches an epoch


class StopAt(TrainerCallback):
    """Saves a checkpoint at a step and stops there, like a machine that is taken away."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if control.should_training_stop and state.global_step == self.step:
            control.should_evaluate = control.should_save = False


@pytest.mark.parametrize("stop_at", [5, 7, 10])  # end of epoch 1, in epoch 2, end of epoch 2
def test_rate_after_a_resume_goes_on_where_it_was(tmp_path, tiny_model, tokenizer, rows, stop_at):
    def make(model):
        return make_trainer(
            model, tokenizer, rows(37), rows(7), tmp_path / "run", num_train_epochs=5, lr_step_size=2, lr_gamma=0.5,
            early_stopping_patience=0,
        )  # fmt: skip

    first = make(copy.deepcopy(tiny_model))
    first.add_callback(StopAt(stop_at))
    first.train()
    second = make(tiny_model)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop_at}"))
    assert first.rates + second.rates == [rate for rate in RATES for _ in range(5)]


def test_rate_does_not_drift_when_fp16_skips_steps(tmp_path, tiny_model, tokenizer, rows):
    """A real gradient scaler on the CPU, with gradients made infinite in two steps as fp16 overflow makes them."""
    trainer = make_trainer(
        tiny_model, tokenizer, rows(37), rows(7), tmp_path / "run", num_train_epochs=5, lr_step_size=2, lr_gamma=0.5,
        early_stopping_patience=0,
    )  # fmt: skip
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    skipped = []

    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            if state.global_step in (0, 7):
                model.classifier.weight.grad.fill_(float("inf"))
            self.before = model.classifier.weight.detach().clone()

        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            if trainer.accelerator.optimizer_step_was_skipped:
                assert torch.equal(self.before, model.classifier.weight)
                skipped.append(state.global_step)

    trainer.add_callback(Overflow())
    trainer.train()
    assert skipped == [0, 7]
    assert trainer.rates == [rate for rate in RATES for _ in range(5)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: fp16 and its scaler are not on a CPU")
def test_rate_does_not_drift_when_fp16_overflows_on_a_gpu(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(37), rows(7), tmp_path / "run", num_train_epochs=5, lr_step_size=2, lr_gamma=0.5,
        early_stopping_patience=0, precision="fp16", use_cpu=False,
    )  # fmt: skip
    skipped = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            trainer.accelerator.scaler.scale(torch.ones((), device="cuda"))
            trainer.accelerator.scaler.update(2.0**22)  # overflows until it has been halved often enough

        def on_optimizer_step(self, args, state, control, **kwargs):
            skipped.append(trainer.accelerator.optimizer_step_was_skipped)

    trainer.add_callback(Watch())
    trainer.train()
    assert any(skipped) and not all(skipped) and len(skipped) == 25
    assert trainer.rates == [rate for rate in RATES for _ in range(5)]


def test_evaluates_every_n_epochs_and_stops_by_patience(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(16), rows(7), tmp_path / "run", num_train_epochs=20, evaluate_every=3,
        early_stopping_patience=2, learning_rate=1e-12,
    )  # fmt: skip
    trainer.train()
    evaluated = [e["epoch"] for e in trainer.state.log_history if "eval_f1" in e]
    assert evaluated == [3, 6, 9]  # the first is the best; two more are not better
    assert trainer.state.epoch == 9
    assert trainer.state.best_global_step == 6  # two steps an epoch


def test_last_epoch_is_kept_on_request(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(16), rows(7), tmp_path / "run", num_train_epochs=3, early_stopping_patience=0,
        load_best_model_at_end=False, learning_rate=1e-6,
    )  # fmt: skip
    seen = []

    class Watch(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            seen.append(weights_of(trainer).clone())

    trainer.add_callback(Watch())
    trainer.train()
    assert len(seen) == 3
    assert trainer.state.best_global_step < trainer.state.global_step
    assert torch.equal(weights_of(trainer), seen[-1])


@pytest.mark.parametrize("n_rows", [1, 7, 130])
def test_evaluation_gives_each_row_once_in_order_with_the_exact_loss(tmp_path, tiny_model, tokenizer, rows, n_rows):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(8), rows(n_rows), tmp_path / "run", train_sampling_strategy="group_by_length",
        per_device_eval_batch_size=4,
    )  # fmt: skip
    output = trainer.predict(trainer.eval_dataset)
    tiny_model.eval()
    with torch.no_grad():
        one_by_one = torch.cat([tiny_model(torch.tensor([ids])).logits for ids in trainer.eval_dataset["input_ids"]])
    gold = torch.tensor(trainer.eval_dataset["label"])
    assert output.predictions.shape == (n_rows, 3)
    assert torch.allclose(torch.from_numpy(output.predictions), one_by_one, atol=1e-5)
    assert output.label_ids.tolist() == gold.tolist()
    assert output.metrics["test_loss"] == pytest.approx(functional.cross_entropy(one_by_one, gold).item(), rel=1e-5)
    assert output.metrics["test_accuracy"] == (one_by_one.argmax(-1) == gold).double().mean().item()


def test_rows_without_labels_are_predicted_in_their_order(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(tiny_model, tokenizer, rows(9), rows(9), tmp_path)
    labelled = trainer.predict(rows(9)).predictions
    assert len({tuple(logits) for logits in labelled}) > 1
    unlabelled = trainer.predict(rows(9).remove_columns("label"))
    np.testing.assert_allclose(unlabelled.predictions, labelled, atol=1e-6)
    assert unlabelled.label_ids is None


def test_training_scores_are_those_of_the_logits_that_training_made(tmp_path, tokenizer, rows):
    """With a rate of nearly 0 and no dropout, training sees what evaluation sees."""
    model = make_model(seed=3)
    trainer = make_trainer(
        model, tokenizer, rows(30), rows(30), tmp_path / "run", num_train_epochs=2, learning_rate=1e-12
    )
    trainer.train()
    train = [e for e in trainer.state.log_history if "train_f1" in e]
    valid = [e for e in trainer.state.log_history if "eval_f1" in e]
    assert len(train) == len(valid) == 2
    for made, evaluated in zip(train, valid, strict=True):
        for name in ("f1", "accuracy", "recall", "precision", "f1_neutral", "n_neutral"):
            assert made[f"train_{name}"] == evaluated[f"eval_{name}"]
        assert made["train_loss"] == pytest.approx(evaluated["eval_loss"], rel=1e-5)


def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path, tokenizer, rows):
    def train(name, seed):
        model = make_model(dropout=0.1)
        trainer = make_trainer(model, tokenizer, rows(24), rows(7), tmp_path / name, num_train_epochs=1, seed=seed)
        trainer.train()
        return weights_of(trainer)

    assert torch.equal(train("a", 1), train("b", 1))
    assert not torch.equal(train("c", 1), train("d", 2))


def test_length_groups_hold_each_text_once_in_another_order_each_epoch():
    lengths = torch.randint(5, 90, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, step_size=16, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert [sorted(order) for order in orders] == [list(range(1003))] * 3
    assert orders[0] == orders[2] != orders[1]

    def padded(order):
        return sum(16 * max(lengths[i] for i in order[start : start + 16]) for start in range(0, 992, 16))

    assert padded(orders[0]) < 1.1 * sum(lengths) < 0.7 * padded(range(1003))
    firsts = [lengths[order[start]] for order in orders[:2] for start in range(0, 992, 16)]
    rises = sum(a < b for a, b in zip(firsts, firsts[1:], strict=False)) / len(firsts)
    assert 0.3 < rises < 0.7  # no drift from long to short


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9])
def test_length_groups_of_few_texts(n):
    assert sorted(LengthGroupedSampler([5] * n, step_size=8, seed=0)) == list(range(n))


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    multiple=st.sampled_from([None, 8]),
    side=st.sampled_from(["right", "left"]),
    names=st.sampled_from(
        [(), ("attention_mask",), ("token_type_ids", "attention_mask"), ("attention_mask", "weight")]
    ),
    padding=st.sampled_from([True, "longest", "max_length"]),
)
def test_the_collator_pads_as_its_parent_does(lengths, multiple, side, names, padding):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    texts = [
        {"input_ids": [7 + i] * n, "label": n % 3} | {name: [1] * n if name != "weight" else n for name in names}
        for i, n in enumerate(lengths)
    ]
    expected, batch = (
        collate(tokenizer, padding, pad_to_multiple_of=multiple)([dict(text) for text in texts])
        for collate in (DataCollatorWithPadding, PaddingCollator)
    )
    assert expected.keys() == batch.keys()
    for name, values in expected.items():
        assert torch.equal(values, batch[name]) and values.dtype == batch[name].dtype, name


def test_the_collator_stops_where_the_encoder_does():
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 60
    texts = [{"input_ids": [7] * n, "attention_mask": [1] * n, "label": 0} for n in (60, 3)]
    collate = PaddingCollator(tokenizer, pad_to_multiple_of=8)
    assert collate(texts)["input_ids"].shape == (2, 60)
    assert collate(texts[1:])["input_ids"].shape == (1, 8)


def test_group_by_length_trains_on_batches_of_similar_length(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(
        tiny_model, tokenizer, rows(37), rows(7), tmp_path / "run", train_sampling_strategy="group_by_length",
        num_train_epochs=2, early_stopping_patience=0,
    )  # fmt: skip
    shapes = []
    trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: shapes.append(kwargs["input_ids"].shape) if model.training else None,
        with_kwargs=True,
    )
    trainer.train()
    assert sum(n for n, _ in shapes) == 2 * 37
    shuffled = make_trainer(
        tiny_model, tokenizer, rows(37), rows(7), tmp_path / "other", num_train_epochs=2, early_stopping_patience=0
    )
    n_grouped = sum(n * length for n, length in shapes)
    shapes.clear()
    shuffled.train()
    assert n_grouped < sum(n * length for n, length in shapes)  # less padding


def test_saved_folder_reloads_with_equal_logits_names_and_no_pickle(tmp_path, tiny_model, tokenizer, rows):
    trainer = make_trainer(tiny_model, tokenizer, rows(16), rows(7), tmp_path / "run", num_train_epochs=1)
    trainer.train()
    trainer.save_model()
    folder = tmp_path / "run"
    assert json.loads((folder / "config.json").read_text())["id2label"] == {
        "0": "positive",
        "1": "neutral",
        "2": "negative",
    }
    assert not list(folder.rglob("training_args.bin"))
    again = type(tiny_model).from_pretrained(folder)
    batch = tokenizer(["enak sekali !", "pergi ke pasar"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, trainer.model.eval()(**batch).logits)
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    assert {answer["label"] for answer in classify(["enak sekali"])[0]} == {"positive", "neutral", "negative"}


def test_class_weights_balanced_by_hand():
    weights = resolve_class_weights("balanced", np.array([0, 0, 0, 1, 2, 2]), 3)
    assert weights.tolist() == pytest.approx([6 / 9, 6 / 3, 6 / 6])
    assert resolve_class_weights("none", [0, 1], 2) is None
    assert resolve_class_weights("1,2.5", [0, 1], 2).tolist() == [1, 2.5]


@pytest.mark.parametrize("spec", ["1,2", "1,2,x", "1,2,-1", "1,2,nan", "1,2,inf", "Balanced"])
def test_class_weights_that_make_no_sense_are_refused(spec):
    with pytest.raises(ValueError, match="give none, balanced, or 3 positive numbers"):
        resolve_class_weights(spec, [0, 1, 2], 3)


def test_class_weights_scale_the_gradient_of_their_label(tmp_path, tiny_model, tokenizer, rows):
    """One batch of one label: weight 3 makes its loss and its gradients three times as large."""
    one_label = rows(8).map(lambda row: {"label": 1})
    norms = {}
    for spec in ("none", "1,3,1"):
        trainer = make_trainer(
            copy.deepcopy(tiny_model), tokenizer, one_label, rows(7), tmp_path / spec, max_steps=1, class_weights=spec,
            max_grad_norm=1e9,
        )  # fmt: skip
        trainer.train()
        norms[spec] = trainer.norms[0]
    assert norms["1,3,1"] == pytest.approx(3 * norms["none"], rel=1e-5)


@pytest.mark.parametrize("n", [8, 5])  # texts of eight that count, as in the last step of an epoch of two processes
def test_rdrop_adds_the_divergence_of_two_draws_of_dropout(tmp_path, tokenizer, rows, n):
    """By hand: the cross entropy of both draws, and alpha times the mean of both KL divergences; half of it."""
    encoded = rows(8)
    trainer = make_trainer(make_model(dropout=0.3), tokenizer, encoded, encoded, tmp_path, rdrop_alpha=0.5)
    batch = trainer.data_collator([dict(row) for row in encoded])
    batch["labels"][n:] = -100
    seen = {}
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
    scores = trainer.epoch_scores.compute()
    assert scores["loss"] == pytest.approx(sum(entropy).item() / 2)  # what is printed is cross entropy alone
    assert sum(scores[f"n_{label}"] for label in trainer.labels) == n
    trainer.model.eval()
    plain = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=n)
    assert seen["logits"].shape == (8, 3)
    torch.testing.assert_close(plain, functional.cross_entropy(seen["logits"][:n], batch["labels"][:n]))


def test_bf16_on_a_cpu_differs_from_fp32_by_rounding_alone(tmp_path, tokenizer, rows):
    start = make_model(dropout=0.1)

    def train(name, **changes):
        trainer = make_trainer(
            copy.deepcopy(start), tokenizer, rows(64), rows(7), tmp_path / name, num_train_epochs=1, **changes
        )
        trainer.train()
        return torch.stack(trainer.losses), trainer

    reference, in_fp32 = train("fp32")
    rounded, in_bf16 = train("bf16", precision="bf16")
    other_draws, _ = train("fast", fast_kernels=True)
    assert in_fp32.args.optim == "adamw_torch" and in_fp32.model.config._attn_implementation == "sdpa"
    assert in_bf16.args.optim == "adamw_torch_fused" and in_bf16.model.config._attn_implementation == "eager"
    assert 0 < (rounded - reference).abs().max() < 1e-3 < (other_draws - reference).abs().max()
    in_bf16.save_model(tmp_path / "model")
    assert "eager" not in (tmp_path / "model" / "config.json").read_text()
