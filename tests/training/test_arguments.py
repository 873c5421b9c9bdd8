"""Options of training: defaults, precision, what is refused, and what a run depends on."""

import pytest
import torch
from accelerate import PartialState
from conftest import ROOT

from smsa.cli import parse
from smsa.data.datasets import DataArguments
from smsa.errors import UserError
from smsa.training.arguments import ModelArguments, SentimentTrainingArguments, describe_settings


def describe(*argv) -> dict:
    groups = parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=list(argv))
    return describe_settings(*groups, hashes={})


def test_the_defaults_are_the_recipe_of_the_reference():
    """As ../shared/reference/RECIPE.md states it."""
    expected = {"learning_rate": 1e-5, "per_device_train_batch_size": 32, "num_train_epochs": 10, "lr_step_size": 1}
    expected |= {"lr_gamma": 0.9, "max_grad_norm": 10, "early_stopping_patience": 3, "max_length": 512, "seed": 42}
    expected |= {"load_best_model_at_end": True, "metric_for_best_model": "f1", "lr_scheduler_type": "epoch_step"}
    settings = describe()
    assert settings == describe(str(ROOT / "recipes" / "indonlu.yaml")) == settings | expected
    assert not settings.get("weight_decay")


def test_settings_are_what_ran_and_nothing_that_does_not_matter(tmp_path):
    plain = describe("--precision", "no")
    assert plain["optim"] == "adamw_torch" and not any("token" in name for name in plain)
    other = "--output_dir x --logging_strategy steps --num_threads 1 --report_to wandb --hub_revision ready"
    assert describe("--precision", "no", *other.split()) == plain
    changed = {"weight_decay": 0.1, "warmup_steps": 5, "lr_scheduler_type": "linear", "seed": 7}
    words = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
    assert describe("--precision", "no", *words) == plain | changed
    for way in (["--precision", "bf16"], ["--fast_kernels", "true"]):
        assert describe(*way)["optim"] == "adamw_torch_fused"
    assert describe("--data_seed", "0")["data_seed"] == 0
    plateau = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--lr_scheduler_kwargs", '{"patience": 1}']  # of F1, or
    assert describe(*plateau)["lr_scheduler_kwargs"] == {"mode": "max", "patience": 1}
    assert describe(*plateau, "--metric_for_best_model", "loss")["lr_scheduler_kwargs"] == {"patience": 1}
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert "sha256 of the base model" in describe("--model_name_or_path", str(tmp_path))


def test_the_precision_asked_for_is_the_one_that_the_trainer_gets(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    asked = [({"precision": "no"}, "no"), ({"precision": "bf16"}, "bf16"), ({}, "bf16"), ({"precision": "fp16"}, "no")]
    for options, in_effect in [*asked, ({"bf16": True}, "bf16"), ({"fp16": True}, "no")]:
        arguments = SentimentTrainingArguments(output_dir=tmp_path, use_cpu=True, **options)
        assert (arguments.mixed_precision, arguments.output_dir) == (in_effect, str(tmp_path))
        assert (arguments.fp16, arguments.bf16) == (False, in_effect == "bf16")


REFUSED = [
    ({"fp16": True, "precision": "no"}, "--precision no contradicts fp16: give only"),
    ({"fp16": True, "bf16": True}, "--precision auto contradicts fp16 and bf16"),
    ({"hub_token": "hf_secret"}, "written to disk"),
    ({"push_to_hub": True}, "go together"),
    ({"push_to_hub": True, "hub_model_id": "me/x", "seeds": [1, 2]}, "--seeds trains several models"),
    ({"seeds": [1, 1]}, "--seeds 1 1: give each seed once"),
    ({"seeds": [1, 2**32]}, r"each seed once, from 0 to 2\*\*32 - 1"),
    ({"dataloader_drop_last": True}, "dataloader_drop_last must stay False"),
    ({"logging_nan_inf_filter": True}, "logging_nan_inf_filter must stay False"),  # it would hide a loss of NaN
    ({"accelerator_config": {"even_batches": False}}, "even_batches must stay True"),
    ({"train_sampling_strategy": "batch_rebalance"}, "twice: choose another"),
    ({"ema_decay": 0.9, "optim": "sgd"}, "ema_decay needs AdamW: leave --optim out"),
    ({"warmup_steps": 9}, "give another --lr_scheduler_type"),
    ({"evaluate_every": 2, "eval_strategy": "no", "load_best_model_at_end": False}, "needs --eval_strategy epoch"),
    ({"max_grad_norm": float("inf")}, "must be at least 0"),
    ({"max_steps": 0}, "must be at least 1, or -1"),
    ({"logging_steps": 9}, "needs --logging_strategy steps"),
    ({"resume_from_checkpoint": "runs/a/checkpoint-9"}, "must stay None.* --resume auto inexact"),
    ({"fsdp": True}, "each process must hold the whole model"),
    ({"ACCELERATE_USE_FSDP": "true"}, "FSDP cannot be used: each process must hold"),  # set by the launcher
]


@pytest.mark.parametrize("values, message", REFUSED, ids=[next(iter(values)) for values, _ in REFUSED])
def test_values_that_contradict_each_other_are_refused(tmp_path, monkeypatch, values, message):
    for name in filter(str.isupper, values):
        monkeypatch.setenv(name, values[name])
    options = {name: value for name, value in values.items() if not name.isupper()}
    with pytest.raises(UserError, match=message) as raised:
        SentimentTrainingArguments(**{"output_dir": str(tmp_path), **options})
    assert "hf_secret" not in str(raised.value)


def test_processes_that_cannot_see_each_other_are_refused(tmp_path, monkeypatch):
    """An accelerator that Accelerate does not distribute over: each process would think that it is alone."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were launched, but this one sees 1"):
        SentimentTrainingArguments(output_dir=str(tmp_path))
    PartialState._reset_state()  # which has found that accelerator


def test_one_process_with_several_gpus_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SentimentTrainingArguments, "n_gpu", property(lambda self: 4))
    with pytest.raises(UserError, match="One process sees 4 GPUs.*--num_processes 4"):
        SentimentTrainingArguments(output_dir=str(tmp_path))


@pytest.mark.parametrize("metric, is_better", [("f1_loss", True), ("loss", False), ("eval_my_loss", False)])
def test_only_of_a_loss_less_is_better(tmp_path, metric, is_better):
    """Trainer goes by the end of the name, which may be that of a label, and takes eval_ before it, too."""
    args = SentimentTrainingArguments(str(tmp_path), metric_for_best_model=metric)
    assert args.greater_is_better is is_better and args.metric_for_best_model == metric.removeprefix("eval_")
    own = SentimentTrainingArguments(str(tmp_path), metric_for_best_model="mae", greater_is_better=False)
    assert own.greater_is_better is False
