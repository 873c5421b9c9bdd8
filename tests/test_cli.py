"""A recipe and a command line -> options; errors -> one line and an exit status."""

import sys
from unittest.mock import MagicMock

import pytest
from processes import ROOT, run

from smsa import DataArguments, ModelArguments, SentimentTrainingArguments
from smsa.cli import exit_on_error, parse
from smsa.errors import UserError
from smsa.pretraining.arguments import CorpusArguments, EncoderArguments, PretrainingArguments

FINETUNE = (ModelArguments, DataArguments, SentimentTrainingArguments)
PRETRAIN = (EncoderArguments, CorpusArguments, PretrainingArguments)


def write_recipe(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding)
    return str(path)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses(path):
    objects = parse(*(PRETRAIN if path.stem.startswith("pretrain") else FINETUNE), argv=[str(path)])
    assert [group.output_dir for group in objects if hasattr(group, "output_dir")] == [f"runs/{path.stem}"]


def test_the_command_line_wins_over_the_recipe_and_a_tilde_is_the_home_in_both(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ani")
    lines = "learning_rate: 3e-6\nseed: 7\nlabels: [a, no]\nuse_cpu: true\nprecision: no\ntest_file: ~\n"
    recipe = write_recipe(tmp_path, lines + "train_file: ~/a.csv\nvalid_file: b~/c.csv\n", "utf-16")  # of PowerShell
    words = [recipe, "--seed", "8", "--output_dir=~/runs/a", "--label_map", "-1=a,1=no"]  # a value, not an option
    _, data_args, training_args = parse(*FINETUNE, argv=words)
    assert (training_args.learning_rate, training_args.seed) == (3e-6, 8)
    assert (data_args.labels, data_args.label_map) == ("a,no", "-1=a,1=no")
    assert (training_args.use_cpu, training_args.precision) == (True, "no")
    files = (data_args.train_file, data_args.valid_file, data_args.test_file)
    assert files == ("/home/ani/a.csv", "b~/c.csv", None)
    assert training_args.output_dir == "/home/ani/runs/a"


def test_a_reader_that_has_enough_ends_a_script_quietly():
    code = "from smsa.cli import exit_on_error\nwith exit_on_error():\n    while True: print('enak', flush=True)"
    assert run("bash", "-o", "pipefail", "-c", f'{sys.executable} -c "{code}" | head -1') == "enak\n"


BAD_COMMANDS = {
    "abbreviation": ("", ["--epoch", "1"], "--epoch is not an option; the nearest is num_train_epochs"),
    "initials": ("", ["--lr", "1"], "--lr is not an option; the nearest is learning_rate or "),
    "unknown key": ("lr_gama: 1", [], "recipe.yaml, line 1: 'lr_gama' is not an option; the nearest is lr_gamma"),
    "not a mapping": ("- a\n- b", [], "a recipe is a list of 'option: value' lines, found a sequence"),
    "a key twice": ("seed: 1\n# more\nseed: 2", [], "recipe.yaml, line 3: seed is also in line 1: keep one"),
    "not YAML": ("a: [", [], 'recipe.yaml", line 1, column 5'),
    "not a number": ("", ["--learning_rate", "nan"], "learning_rate is nan; it must be more than 0"),
    "a table in a list": ("labels:\n- a: b", [], "recipe.yaml, line 1: labels must be values, or JSON such as '{"),
    "never evaluates": ("evaluate_every: 11", [], "evaluate_every 11 leaves no evaluation to choose by: lower it"),
    "too large a seed": ("", ["--seed", str(2**32)], "seed is 4294967296; it must be at least 0 and below 2**32"),
    "quotes that a shell took": ("", ["--accelerator_config", "{a:1}"], "{a:1} is not JSON: "),
    "labels apart": ("", ["--labels", "a", "b"], "'b' belongs to no option: a recipe comes first, and commas sep"),
    "a list twice": ("", ["--seeds", "1", "--seeds", "2"], "--seeds takes its values with blanks between them, once"),
    "a list with commas": ("", ["--seeds", "1,2"], "with blanks between them, once: --seeds A B."),
    "a missing recipe": (None, ["recipes/minii.yaml"], "recipes/minii.yaml is not a recipe: give a .yaml file"),
}


@pytest.mark.parametrize("recipe, argv, message", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_a_bad_command_ends_with_status_2_and_says_why(tmp_path, capsys, monkeypatch, recipe, argv, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        parse(*FINETUNE, argv=argv if recipe is None else [write_recipe(tmp_path, recipe), *argv])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("error, told", [
    (UserError("a.tsv, line 3"), "error: a.tsv, line 3"),
    (PermissionError(13, "denied", "x"), "error: [Errno 13] denied: 'x'"),
    (ImportError("'socksio' package is not installed"), "error: 'socksio' package is not installed"),
    (RuntimeError("wandb has to be installed"), "error: wandb has to be installed"),
    (ValueError("tensorbord is not supported, only wandb"), "error: tensorbord is not supported, only wandb"),
    (RuntimeError("working C++ compiler\n"), "error: working C++ compiler: install g++, or leave --torch_compile out."),
    (RuntimeError("[gloo] closed"), "error: [gloo] closed; another rank has ended: its line, if any, says why. The "
     "same command resumes; training needs --resume auto."),
    (BrokenPipeError(32, "of another pipe than stdout"), None), (ValueError("could not broadcast"), None),
    (RuntimeError("mat1 and mat2"), None), (KeyboardInterrupt(), 130),
])  # fmt: skip
def test_an_error_of_the_user_is_one_line_and_a_bug_is_raised_as_it_is(monkeypatch, error, told):
    monkeypatch.setattr("smsa.cli.logging", MagicMock())  # what is set up would also change later tests
    monkeypatch.setattr("smsa.cli.transformers", MagicMock())
    with pytest.raises(SystemExit if told else type(error)) as stopped, exit_on_error():
        raise error
    assert not told or stopped.value.code == told
