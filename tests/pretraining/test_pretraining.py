"""Masks, the loss of masked tokens only, new encoders and new words, and a run that ends and is resumed."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SHAPE, contents, make_tokenizer, read_json
from huggingface_hub import ModelCard
from processes import SERVER, launch, run
from torch.nn import functional
from torch.utils.data import DataLoader
from trainers import ask_at, flatten, log_of
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from scripts import pretrain
from smsa.cli import parse
from smsa.errors import UserError
from smsa.models.loading import load_encoder, load_model
from smsa.pretraining import encoder
from smsa.pretraining.arguments import CorpusArguments, EncoderArguments, PretrainingArguments
from smsa.pretraining.trainer import MaskedTrainer, Masking
from smsa.sharing.card import render_card
from smsa.training.trainer import IGNORED


def make_masked_lm(model_type: str = "modernbert", tokenizer=None, dropout: float = 0.0):
    """Return a small random masked language model, of the vocabulary of the other tests if of no other."""
    torch.manual_seed(0)
    tokenizer = tokenizer or make_tokenizer()
    special = {name: 0 for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")}
    shape = dict(SHAPE, max_position_embeddings=128, embedding_size=32, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    shape |= {"embedding_dropout": dropout, "mlp_dropout": dropout} if model_type == "modernbert" else {}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **shape, **special)
    return AutoModelForMaskedLM.from_config(config), tokenizer


def make(output_dir, model_type="modernbert", dropout=0.0, **changes) -> MaskedTrainer:
    """Return a trainer over random rows of real tokens."""
    model, tokenizer = make_masked_lm(model_type, dropout=dropout)
    rows = np.random.default_rng(0).integers(5, len(tokenizer), (37, 24))
    rows[:, 0], rows[:, 9] = tokenizer.cls_token_id, tokenizer.sep_token_id
    values = {"num_train_epochs": 3, "learning_rate": 1e-2, "warmup_steps": 3, "decay_steps": 4}
    values |= {"per_device_train_batch_size": 8, "precision": "no", "use_cpu": True, "max_grad_norm": 1.0}
    args = PretrainingArguments(output_dir=str(output_dir), **values | changes)
    return MaskedTrainer(model, args, tokenizer, rows[:30], rows[30:])


def test_masks_are_drawn_anew_each_epoch_and_again_for_the_same_one(tokenizer):
    masking = Masking(tokenizer, 0.3, mask_seed=1)
    rows = np.random.default_rng(0).integers(5, len(tokenizer), (200, 30))
    rows[:, 0], rows[:, 7] = tokenizer.cls_token_id, tokenizer.sep_token_id
    examples = [{"input_ids": row} for row in rows.tolist()]
    first = masking(examples)
    in_parts = [masking(examples[:7]), masking(examples[7:])]  # whatever the batch
    assert all(torch.equal(torch.cat([part[name] for part in in_parts]), first[name]) for name in first)
    for masking.mask_seed, masking.epoch in ((1, 1), (2, 0)):
        assert not torch.equal(masking(examples)["labels"], first["labels"])

    is_masked = first["labels"] != IGNORED
    assert not is_masked[:, [0, 7]].any() and 0.27 < is_masked[:, 8:].float().mean() < 0.33  # no special token
    assert 0.75 < (first["input_ids"][is_masked] == tokenizer.mask_token_id).float().mean() < 0.85


def test_a_worker_that_is_not_forked_masks_as_this_process(tmp_path):
    """The collator is sent to it, as on macOS and with Python 3.14."""
    trainer = make(tmp_path)
    examples = [trainer.train_dataset[i] for i in range(8)]
    loader = DataLoader(examples, 8, num_workers=1, collate_fn=trainer.data_collator, multiprocessing_context=SERVER)
    (found,), expected = loader, trainer.data_collator(examples)
    assert all(torch.equal(found[name], expected[name]) for name in ("input_ids", "labels"))


@pytest.mark.parametrize("model_type", ["modernbert", "bert", "camembert", "distilbert", "albert"])
def test_loss_and_accuracy_are_those_of_all_logits_where_tokens_are_masked(tmp_path, model_type):
    trainer = make(tmp_path, model_type, label_smoothing_factor=0.2)  # which is for training only
    found = trainer.evaluate()
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(len(trainer.eval_dataset))])
    plain, _ = make_masked_lm(model_type)
    with torch.no_grad():
        logits = plain.eval()(input_ids=batch["input_ids"]).logits  # (rows, length, vocab_size)
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
    smoothed = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.2)
    is_masked = batch["labels"] != IGNORED
    hits = (logits.argmax(-1) == batch["labels"])[is_masked].float().mean()
    assert found["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["eval_masked_accuracy"] == pytest.approx(hits.item())
    trainer.model.training = True  # and not its dropout
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(smoothed.item(), rel=1e-5)


def test_a_step_is_the_same_however_it_is_cut_into_batches(tmp_path):
    """Adam would hide a gradient that is a multiple of what it should be: the norm does not."""
    logs = {"max_steps": 5, "logging_strategy": "steps", "logging_steps": 1}
    whole = make(tmp_path / "whole", **logs)
    parts = make(tmp_path / "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, **logs)
    for trainer in (whole, parts):
        trainer.train()
    for name in ("loss", "grad_norm"):
        assert len(log_of(whole, name)) == 5
        np.testing.assert_allclose(log_of(parts, name), log_of(whole, name), rtol=1e-4)


@pytest.mark.parametrize("n_steps, given, expected", [
    (4, {}, [0, 1 / 2, 1, 1 / 2]),  # too few for 3 steps up and 4 down: both get shorter
    (9, {"min_lr_ratio": 0.1}, [0.1, 0.4, 0.7, 1, 1, 1, 0.775, 0.55, 0.325]),
])  # fmt: skip
def test_the_learning_rate_rises_stays_and_falls(tmp_path, n_steps, given, expected):
    trainer = make(tmp_path, max_steps=n_steps, lr_scheduler_kwargs=given)
    trainer.create_optimizer_and_scheduler(n_steps)
    factor = trainer.lr_scheduler.lr_lambdas[0]
    assert [factor(step) for step in range(n_steps)] == pytest.approx(expected)


def test_a_resumed_run_gives_what_an_undisturbed_run_gives(tmp_path):
    options = {"dropout": 0.2, "dataloader_num_workers": 1}
    undisturbed = make(tmp_path / "undisturbed", **options)
    undisturbed.train()
    for step in (6, 9):
        trainer = make(tmp_path / "stopped", **options)
        trainer.add_callback(ask_at(step))
        with pytest.raises(SystemExit):
            trainer.train(resume_from_checkpoint=step > 6)
    again = make(tmp_path / "stopped", **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == undisturbed.state.global_step == 12
    assert torch.equal(flatten(again.model), flatten(undisturbed.model))
    for name in ("loss", "eval_loss"):
        assert log_of(again, name) == log_of(undisturbed, name)


def call(*words) -> None:
    pretrain.main(*parse(EncoderArguments, CorpusArguments, PretrainingArguments, argv=list(map(str, words))))


@pytest.fixture
def words(smsa_dir, tmp_path, monkeypatch):
    """Options of a run on a small corpus, from nothing."""
    text = "warung ini enak dan murah sekali\npelayanan nya lambat , kecewa\nrapat hari ini ditunda\n"
    (tmp_path / "a.txt").write_text(text * 20 + "".join(f"teks lain nomor {i}\n" for i in range(200)))
    monkeypatch.setattr(encoder, "SHAPE", SHAPE)
    return ["--sources", "a.txt=1.5", "smsa", "--corpus_dir", tmp_path, "--data_dir", smsa_dir, "--max_length", 16,
            "--held_out", 0.1, "--num_train_epochs", 2, "--learning_rate", 1e-3,
            "--model_name_or_path", "new", "--use_cpu", "true"]  # fmt: skip


def test_an_encoder_from_nothing_is_written_reloads_and_is_pre_trained_further(words, tmp_path, monkeypatch, caplog):
    folder, word_list = tmp_path / "encoder", tmp_path / "words.txt"
    word_list.write_text("ulasan\ngacor\n")  # the first could also name a column
    call(*words, "--output_dir", folder, "--add_tokens", word_list)
    run, metrics = (read_json(folder / name) for name in ("run.json", "metrics.json"))
    assert run["data"]["a.txt"]["weight"] == 1.5 and run["data"]["smsa"]["n_texts"] == 7
    last = pd.read_csv(folder / "history.csv").iloc[-1]
    assert list(last.index) == ["epoch", "learning_rate", "train_loss", "held_out_loss", "held_out_masked_accuracy"]
    assert last["epoch"] == metrics["epoch"] == 2
    n_rows = int(re.search(r"An epoch: .* texts, (\d+) rows of 16 tokens", caplog.text)[1])
    assert metrics["tokens_seen"] == 2 * n_rows * 16
    assert {f"held_out_{score}": value for score, value in metrics["held_out"].items()} == dict(last[-2:])

    pretrained = AutoModelForMaskedLM.from_pretrained(folder)
    model, tokenizer = load_model(str(folder))  # what scripts/finetune.py starts from
    loaded = model.base_model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in pretrained.base_model.state_dict().items())
    # the layer that both share starts anew: trained to tell tokens apart, its numbers are too large for labels
    assert not torch.equal(model.head.dense.weight, pretrained.head.dense.weight)
    assert torch.equal(model.head.norm.weight, torch.ones_like(model.head.norm.weight))
    assert model.config.mlp_dropout > 0 == pretrained.model.layers[0].mlp.drop.p - model.model.layers[0].mlp.drop.p
    tokens = tokenizer.tokenize("Pelayanannya LAMBAAAT, kecewa!")
    assert tokens == AutoTokenizer.from_pretrained(folder).tokenize("pelayanan nya lambat , kecewa !")
    assert {"pelayanannya", "lambat"} < set(tokens) and tokenizer.tokenize("gacor") == ["gacor"]
    assert tokenizer.tokenize("ulasan") == ["ulasan"]

    word_list.write_text("baper\n")
    continued = [*words, "--model_name_or_path", folder, "--add_tokens", word_list, "--max_steps", 2]
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    to_hub = []  # what is checked before the run, and pushed after it
    for name in ("require_access", "push"):
        monkeypatch.setattr(pretrain, name, lambda *given: to_hub.append(given))
    continued += ["--push_to_hub", "--hub_model_id", "me/encoder", "--hub_private_repo"]
    call(*continued, "--output_dir", tmp_path / "continued")
    assert to_hub == [("me/encoder", True), (str(tmp_path / "continued"), "me/encoder", True, None)]
    assert ModelCard.load(tmp_path / "continued" / "README.md").data.license == "mit"  # that of its base model
    again, tokens = load_encoder(str(tmp_path / "continued"))
    assert len(tokens) == len(tokenizer) + 1 == again.config.vocab_size


def test_equal_settings_give_equal_encoders_and_a_finished_run_is_left_alone_or_lengthened(words, tmp_path):
    folder = tmp_path / "first"
    words += ["--load_best_model_at_end", "true", "--metric_for_best_model", "loss", "--greater_is_better", "true"]
    for name in ("first", "second"):
        call(*words, "--output_dir", tmp_path / name)
    first, second = contents(folder), contents(tmp_path / "second")
    assert all(first[name] == second[name] for name in ("model.safetensors", "tokenizer.json"))
    words += ["--output_dir", folder, "--resume", "auto"]
    call(*words)
    assert contents(folder) == first
    call(*words, "--num_train_epochs", 3)
    assert len(list(folder.glob("checkpoint-*"))) == 2  # the last and the best, which is another
    card = (folder / "README.md").read_text()
    assert "`a.txt`" in card and str(tmp_path) not in card.replace(str(folder), "")  # the folder is how it is loaded
    # at the learning rate of a large encoder a small one learns little
    assert "recipes/mini.yaml --model_name_or_path me/encoder" in render_card(folder, "me/encoder")


def test_options_that_make_no_sense_are_refused_and_nothing_is_left(words, tmp_path, capsys):
    wrong = {"--held_out=0": "held_out is 0", "--metric_for_best_model=f1": "'f1' is not loss or masked_accuracy"}
    for option, reason in (wrong | {"--max_length=4096": "this encoder reads 512"}).items():
        with pytest.raises((UserError, SystemExit)) as refused:
            call(*words, option, "--output_dir", tmp_path / "run")
        assert reason in f"{refused.value}{capsys.readouterr().err}" and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_and_evaluate_like_one(words, tmp_path):
    """In real launches; rows do not fill the last step of an epoch, nor share out evenly in evaluation."""
    common = [*words, "--precision", "no", "--num_threads", 1, "--warmup_steps", 2]
    for name, n_ranks in (("one", 1), ("two", 2)):
        options = [*common, "--per_device_train_batch_size", 8 // n_ranks, "--output_dir", tmp_path / name]
        run(*launch("scripts/pretrain.py", *options, n_ranks=n_ranks))
    one, two = (read_json(tmp_path / name / "metrics.json") for name in ("one", "two"))
    assert one["tokens_seen"] == two["tokens_seen"]
    assert one["tokens_seen"] // (2 * 16) % 8  # rows of an epoch, of 16 tokens
    assert two["held_out"]["loss"] == pytest.approx(one["held_out"]["loss"], abs=1e-4)
    assert two["held_out"]["masked_accuracy"] == pytest.approx(one["held_out"]["masked_accuracy"], abs=0.01)
    models = [AutoModelForMaskedLM.from_pretrained(tmp_path / name) for name in ("one", "two")]
    torch.testing.assert_close(*map(flatten, models), rtol=0, atol=1e-4)
    assert read_json(tmp_path / "two" / "run.json")["world_size"] == 2
