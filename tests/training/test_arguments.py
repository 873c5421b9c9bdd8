"""Recipe, command line and defaults are one set of options, and what cannot take effect is refused."""

import dataclasses
import os
import platform
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT
from transformers import BertConfig

from smsa.cli import parse
from smsa.data.arguments import DataArguments
from smsa.models import devices as hardware
from smsa.pretraining.arguments import PRETRAIN_OPTIONS, EncoderArguments
from smsa.training.arguments import (
    FINETUNE_OPTIONS,
    ModelArguments,
    SentimentTrainingArguments,
)


def parse(*argv):
    return parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=list(argv))


def chosen(*argv):
    """All option values as one dictionary."""
    kinds = {kind: names for kind, names in ((kind, []) for kind, _ in FINETUNE_OPTIONS.values())}
    for kind, names in FINETUNE_OPTIONS.values():
        kinds[kind] += names
    return {name: getattr(group, name) for group in parse(*argv) for name in kinds[type(group)]}


def write_recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_default_recipe_says_what_the_defaults_are():
    recipe = yaml.safe_load((ROOT / "recipes" / "indonlu.yaml").read_text())
    assert len(recipe) >= 10
    assert chosen(str(ROOT / "recipes" / "indonlu.yaml")) == chosen()


RECIPES = {  # as ../shared/reference/RECIPE.md states them
    "indonlu": (1e-5, 32, 10, 1, 0.9, 10, 3, 512, 42, True),
    "tutorial": (3e-6, 32, 5, 1, 1, 0, 0, 512, 26092020, False),
    "large": (2e-5, 16, 20, 1, 0.9, 10, 3, 128, 42, True),
}


@pytest.mark.parametrize("name, values", RECIPES.items(), ids=RECIPES)
def test_named_recipes_hold_the_values_of_the_reference(name, values):
    options = chosen(str(ROOT / "recipes" / f"{name}.yaml"))
    names = (
        "learning_rate",
        "per_device_train_batch_size",
        "num_train_epochs",
        "lr_step_size",
        "lr_gamma",
        "max_grad_norm",
    )
    names += ("early_stopping_patience", "max_length", "seed", "load_best_model_at_end")
    assert tuple(options[name] for name in names) == values
    assert options["metric_for_best_model"] == "f1"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_parses(path):
    options = PRETRAIN_OPTIONS if path.stem.startswith("pretrain") else FINETUNE_OPTIONS
    output_dirs = [group.output_dir for group in parse_arguments(options, [str(path)]) if hasattr(group, "output_dir")]
    assert output_dirs == [f"runs/{path.stem}"]


def test_the_command_line_wins_over_the_recipe(tmp_path):
    recipe = write_recipe(tmp_path, "learning_rate: 3e-6\nseed: 7\nlabels: [a, no]\nuse_cpu: true\nprecision: no\n")
    options = chosen(recipe, "--seed", "8")
    assert (options["learning_rate"], options["seed"], options["labels"]) == (3e-6, 8, "a,no")
    assert (options["use_cpu"], options["precision"]) == (True, "no")


def test_an_epoch_that_ends_early_is_evaluated_too():
    options = chosen("--num_train_epochs", "1.5", "--evaluate_every", "2")
    assert (options["num_train_epochs"], options["evaluate_every"]) == (1.5, 2)


BAD_COMMANDS = {
    "unknown option": ("", ["--lerning_rate", "1"], "--lerning_rate is not an option; the nearest is learning_rate"),
    "abbreviation": ("", ["--learning", "1"], "--learning is not an option"),
    "unknown key": ("lr_gama: 1", [], r"recipe.yaml: 'lr_gama' is not an option; the nearest is lr_gamma"),
    "Trainer's field": ("weight_decay: 1", [], "'weight_decay' is not an option"),
    "malformed value": ("learning_rate: fast", [], "invalid float value: 'fast'"),
    "malformed choice": ("precision: fp8", [], "invalid choice: 'fp8'"),
    "not a mapping": ("- a\n- b", [], "a recipe is a list of 'option: value' lines, found list"),
    "a key twice": ("seed: 1\n# more\nseed: 2", [], "recipe.yaml, line 3: seed stands in line 1, too"),
    "not YAML": ("a: [", [], "is not valid YAML"),
    "value out of range": ("evaluate_every: 0", [], "evaluate_every is 0; it must be at least 1"),
    "not a number": ("", ["--learning_rate", "nan"], "learning_rate is nan; it must be more than 0"),
    "a rate that turns": ("lr_gamma: -0.5", [], "lr_gamma is -0.5; it must be more than 0"),
    "no text a batch": ("", ["--per_device_eval_batch_size", "0"], "per_device_eval_batch_size is 0; it must be at"),
    "beta of one": ("adam_beta2: 1", [], "adam_beta2 is 1.0; it must be at least 0 and below 1"),
    "a table in a list": ("labels:\n- a: b", [], "labels is neither a value nor a list of values, found [{'a': 'b'}]"),
    "never evaluates": ("evaluate_every: 11", [], "evaluate_every 11 leaves no evaluation"),
    "token": ("", ["--hub_token", "hf_x"], "--hub_token is not an option"),
}


@pytest.mark.parametrize("recipe, argv, message", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_a_bad_command_ends_with_status_2_and_says_why(tmp_path, capsys, recipe, argv, message):
    with pytest.raises(SystemExit) as stopped:
        parse(write_recipe(tmp_path, recipe), *argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "recipes/minii.yaml",
            "recipes/minii.yaml does not exist; recipes has recipes/fast.yaml, recipes/indonlu.yaml, ",
        ),
        ("mini", "mini is no recipe, which ends in .yaml; options begin with --, and --help lists them"),
    ],
)
def test_a_missing_recipe_ends_with_status_2(capsys, monkeypatch, word, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        parse(word)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_is_grouped_and_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--help")
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    for title, (kind, names) in FINETUNE_OPTIONS.items():
        assert f"\n{title}:\n" in text
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for name in names:
            assert f"--{name}" in text
            assert fields[name].metadata["help"].endswith(".")
    assert len(text.splitlines()) < 160


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine look like another one to `resolve_precision`."""

    def make(cpu=(), capability=None, bf16=False, launcher=None):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(cpu, True))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        if launcher:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)

    return make


@pytest.mark.parametrize(
    "requested, device, looks, in_effect",
    [
        ("auto", "cpu", {"cpu": ["amx_tile"]}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx512_bf16"]}, "bf16"),
        ("auto", "cpu", {"cpu": ["avx2"]}, "no"),
        ("auto", "cuda", {"bf16": True, "capability": (9, 0)}, "bf16"),
        ("auto", "cuda", {"capability": (7, 5)}, "fp16"),
        ("auto", "cuda", {"capability": (6, 1)}, "no"),
        ("auto", "mps", {}, "no"),
        ("auto", "cuda", {"bf16": True, "launcher": "fp16"}, "fp16"),
        ("auto", "cpu", {"cpu": ["avx2"], "launcher": "bf16"}, "bf16"),
        ("auto", "cpu", {"cpu": ["amx_tile"], "launcher": "no"}, "bf16"),
        ("auto", "cpu", {"launcher": "fp16"}, "no"),
        ("no", "cuda", {"bf16": True, "launcher": "fp16"}, "no"),
        ("fp16", "cpu", {}, "no"),
        ("fp16", "cuda", {"launcher": "bf16"}, "fp16"),
    ],
)
def test_precision_follows_the_option_then_the_launcher_then_the_device(
    machine, caplog, requested, device, looks, in_effect
):
    machine(**looks)
    with caplog.at_level("INFO", logger="smsa"):
        assert hardware.resolve_precision(requested, device) == in_effect
    assert f"asked {requested}" in caplog.text
    assert f"in effect on {device}: {'fp32' if in_effect == 'no' else in_effect}" in caplog.text


@pytest.mark.parametrize(
    "capabilities, best",
    [
        ({"amx_tile": True, "cpu_name": "Intel(R) Xeon(R)"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, "no"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, "no"),
    ],
)
def test_scoring_is_in_bf16_where_a_cpu_is_fast_in_it(monkeypatch, capabilities, best):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.precision_for_scoring("cpu") == best


def test_fp16_on_a_cpu_says_that_it_is_not(machine, caplog):
    with caplog.at_level("INFO", logger="smsa"):
        hardware.resolve_precision("fp16", "cpu")
    assert "fp16 is for GPUs" in caplog.text


def test_a_precision_of_the_launcher_that_we_do_not_know_is_refused(machine):
    machine(launcher="fp8")
    with pytest.raises(ValueError, match="'fp8' .from the launcher. is not one of"):
        hardware.resolve_precision("auto", "cuda")


def test_the_precision_asked_for_is_the_one_that_the_trainer_gets(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    for requested, in_effect in (("no", "no"), ("bf16", "bf16"), ("auto", "bf16"), ("fp16", "no")):
        arguments = SentimentTrainingArguments(output_dir=str(tmp_path), precision=requested, use_cpu=True)
        assert arguments.mixed_precision == in_effect
        assert (arguments.fp16, arguments.bf16) == (False, in_effect == "bf16")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"fp16": True}, "set precision"),
        ({"bf16": True}, "set precision"),
        ({"hub_token": "hf_secret"}, "write the token to disk"),
        ({"push_to_hub": True}, "write the token to disk"),
        ({"early_stopping_patience": -1}, "must be at least 0"),
        ({"lr_step_size": 0}, "must be at least 1"),
        ({"max_grad_norm": float("inf")}, "must be at least 0"),
        ({"weight_decay": 0.1}, "weight_decay would have no effect here: leave it at 0.0"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type would have no effect"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last must stay off"),
        ({"optim": "sgd"}, "optim would have no effect"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor would have no effect"),
    ],
)
def test_values_that_could_not_take_effect_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message) as raised:
        SentimentTrainingArguments(output_dir=str(tmp_path), **values)
    assert "hf_secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launcher_that_shards_the_model_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ValueError, match=f"{name}: each process must hold the whole model"):
        SentimentTrainingArguments(output_dir=str(tmp_path))
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "false")
    SentimentTrainingArguments(output_dir=str(tmp_path))
    for asked in ({"fsdp": True}, {"deepspeed": "zero.json"}):
        with pytest.raises(ValueError, match="DeepSpeed or FSDP: each process must hold the whole model"):
            SentimentTrainingArguments(output_dir=str(tmp_path), **asked)


def test_gpus_are_named_where_they_are_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    assert hardware.describe_hardware()["gpus"] == ["GPU 0", "GPU 1"]
    assert hardware.describe_hardware("cpu")["gpus"] == []
    assert hardware.describe_environment("cuda")["processor"] == "GPU 0, GPU 1"
    assert "GPU" not in hardware.describe_environment("cpu")["processor"]


@pytest.mark.parametrize(
    ("metric", "is_better"), [("f1", True), ("f1_loss", True), ("f1_hair loss", True), ("loss", False)]
)
def test_only_of_the_loss_less_is_better(tmp_path, metric, is_better):
    """Trainer goes by the end of the name, which may be that of a label."""
    arguments = SentimentTrainingArguments(output_dir=str(tmp_path), metric_for_best_model=metric)
    assert arguments.greater_is_better is is_better


def test_the_shape_of_a_new_encoder_is_refused_where_it_cannot_be():
    with pytest.raises(ValueError, match="hidden_size is 66; it must be a multiple of twice the 22 attention heads"):
        EncoderArguments("new", hidden_size=66, num_attention_heads=22)
    asked = EncoderArguments("runs/encoder", num_hidden_layers=6)
    asked.require_shape_of(BertConfig(num_hidden_layers=6))
    with pytest.raises(ValueError, match="num_hidden_layers is 6, but that of runs/encoder is 12 and stays"):
        asked.require_shape_of(BertConfig())


def test_a_launched_process_takes_its_share_of_the_cores(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    hardware.set_cpu_threads()  # plain python: torch's own choice
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    hardware.set_cpu_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    hardware.set_cpu_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    hardware.set_cpu_threads()  # what the user asked for
    hardware.set_cpu_threads(5)
    assert seen == [8, 2, 5]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept():
    script = (
        "import resource, torch; from smsa.models.devices import keep_freed_memory\n"
        "for kept in (False, True):\n"
        "    if kept: keep_freed_memory()\n"
        "    for _ in range(20): torch.ones(2**24)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20): torch.ones(2**24)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "THP_MEM", "GLIBC_TUNABLES"))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert after < 100 < before


@pytest.mark.parametrize("changed", [{"split_batches": True}, {"even_batches": False}])
def test_other_ways_to_share_texts_among_processes_are_refused(tmp_path, changed):
    with pytest.raises(ValueError, match="split_batches and even_batches must stay"):
        SentimentTrainingArguments(output_dir=str(tmp_path), accelerator_config=changed)
