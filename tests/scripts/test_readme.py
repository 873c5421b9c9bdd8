"""Every command that README.md and its pages print runs as printed, in a clean clone; every link leads somewhere."""

import configparser
import json
import os
import re
import subprocess

import pytest
from cards import check_card
from conftest import ROOT, is_cut_short, run
from readme import PAGES, read_blocks

from smsa.cli import parse
from smsa.data.arguments import DataArguments
from smsa.training.arguments import (
    ModelArguments,
    SentimentTrainingArguments,
)

BLOCKS = read_blocks(*PAGES)
FOLDERS = ("smsa", "smsa/scoring", "smsa/judging", "scripts", "benchmarks", "docs")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clean clone of what is committed, with the environment that `make` has built here, or builds now."""
    folder = tmp_path_factory.mktemp("clone") / "smsa"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    subprocess.run(["make", "--quiet", ".venv/.installed"], cwd=ROOT, check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run(["make", "--touch", ".venv/.installed"], cwd=folder, check=True)  # the clone's files are younger
    return folder


def run_in(clone, code, **environment):
    """Run a block in the clone with the environment activated, as README says, and the clone's smsa."""
    path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return run("bash", "-euc", code, cwd=clone, timeout=1500, PATH=path, PYTHONPATH=str(clone), **environment)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_quickstart_runs_in_a_clean_clone_and_can_be_run_again(clone):
    assert "make quickstart" in BLOCKS[0][2]
    for _ in range(2):
        status, text = run_in(clone, "make quickstart", SMSA_DATA_DIR="")
        assert status == 0, text
    assert re.search(r"^macro +[\d.]+ +[\d.]+ +[\d.]+ +66$", text, re.MULTILINE)
    labelled = re.findall(r"^(positive|neutral|negative) +[01]\.\d{3}  (\w+)", text, re.MULTILINE)
    assert [word for _, word in labelled] == ["Bahagia", "Budi", "Dasar"]
    assert "scripts/finetune.py recipes/mini.yaml" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("needs, language, code", BLOCKS, ids=[code.split("\n")[0][-60:] for _, _, code in BLOCKS])
def test_blocks_run_as_printed(clone, tmp_path, needs, language, code):
    if "make quickstart" in code:
        pytest.skip("has a test of its own; `make test` is what runs the tests")
    if needs:
        pytest.skip(f"needs {needs}" + (": run by test_mini_and_scratch_learn_smsa" if needs == "smsa" else ""))
    if language == "python":
        (tmp_path / "block.py").write_text(code, encoding="utf-8")
        code = f"python {tmp_path / 'block.py'}"
    status, text = run_in(clone, code)
    assert status == 0, text


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_mini_and_scratch_learn_smsa(clone, smsa_files):
    of_smsa = [code for needs, _, code in BLOCKS if needs == "smsa"]
    assert len(of_smsa) == 5  # the last three judge and export what the first two leave
    assert "recipes/mini.yaml" in of_smsa[0] and "recipes/scratch.yaml" in of_smsa[1]
    bars, fewer = {"mini": 0.88, "scratch": 0.85}, ""
    if is_cut_short("one epoch of recipes/mini.yaml and recipes/scratch.yaml"):
        bars, fewer = {"mini": 0.86, "scratch": 0.81}, " --num_train_epochs 1"
    for code in of_smsa:
        status, text = run_in(clone, code.rstrip() + (fewer if "recipes/" in code else ""))
        assert status == 0, text
    report = json.loads((clone / "runs" / "baselines" / "report" / "report.json").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for system in report["systems"][:3]:  # those that are the same on every machine
        cells = [system["metrics"][score]["value"] for score in ("accuracy", "f1")]
        cells += [system["labels"][label]["f1"]["value"] for label in ("positive", "neutral", "negative")]
        (row,) = re.findall(rf"^\| `{system['name']}` \| (.*) \|$", readme, re.MULTILINE)
        assert [cell.split()[0] for cell in row.split(" | ")] == [f"{100 * cell:.1f}" for cell in cells]
    for name, bar in bars.items():
        metrics = json.loads((clone / "runs" / name / "metrics.json").read_text())
        assert sum(metrics["valid"][f"n_{label}"] for label in ("positive", "neutral", "negative")) == 1260
        assert metrics["valid"]["f1"] >= bar
        run_record = json.loads((clone / "runs" / name / "run.json").read_text())
        check_card((clone / "runs" / name / "README.md").read_text(encoding="utf-8"), metrics, run_record)
    for kind, name in (("onnx-int8", "onnx/model_quantized.onnx"), ("openvino-int8", "openvino_model.xml")):
        exported = json.loads((clone / "runs" / f"scratch-{kind}" / "export.json").read_text())
        assert exported["data"]["n_texts"] == 1260 and exported[name]["f1_loss"] <= 0.01


def test_every_block_that_is_not_run_says_what_it_needs():
    assert len(BLOCKS) >= 7
    known = {"", "hub", "smsa", "GPUs", "hub and GPUs", "smsa and 20 minutes"}
    assert {needs for needs, _, _ in BLOCKS} <= known
    of_the_hub = ("recipes/indonlu.yaml", "scripts/push.py", "--model_name_or_path indobenchmark", "hf upload")
    for needs, _, code in BLOCKS:
        assert ("hub" in needs) == any(words in code for words in of_the_hub)


def test_the_indonesian_readme_has_the_same_blocks_and_recipes():
    assert read_blocks("README.id.md") == read_blocks("README.md")

    def recipes(name):
        rows = re.findall(
            r"^\| `(\w+)`(?: \(\w+\))? \| (.+) \|$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE
        )
        return {recipe: sorted(re.findall(r"[\d.]+e-\d|[\d.]+", row)) for recipe, row in rows if row.count("|") == 7}

    assert len(recipes("README.md")) >= 7 and recipes("README.id.md") == recipes("README.md")


def anchors(page):
    """What GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists() and (not anchor or anchor in anchors(target)), link


def test_a_space_needs_what_the_package_needs():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = "\n".join([setup["options"]["install_requires"], extras["demo"], extras["openvino"]]).split("\n")
    listed = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert listed[1:] == [line for line in needed if line]


def test_the_map_names_every_file_and_no_other():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## The map")[1].split("```")[1]
    named = set(re.findall(r"^(\S+)", tree, re.MULTILINE))
    files = {str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.py")}
    files = {name for name in files if not name.endswith("__init__.py")}
    assert files == {name for name in named if name.endswith(".py")}
    assert all((ROOT / name).exists() for name in named)


def test_the_table_of_recipes_holds_their_values():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("| `")]
    rows = {cells[0].split("`")[1]: [cell.strip() for cell in cells[2:]] for cells in lines}
    for path in set((ROOT / "recipes").glob("*.yaml")) - {ROOT / "recipes" / "pretrain-mini.yaml"}:
        _, _, args, _ = parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=[str(path)])
        rate, batch, epochs, gamma, clip, patience, kept = rows[path.stem]
        assert float(rate) == args.learning_rate
        assert (int(batch), int(epochs)) == (args.per_device_train_batch_size, args.num_train_epochs)
        assert gamma == ("constant" if args.lr_gamma == 1 else str(args.lr_gamma))
        assert clip == (f"{args.max_grad_norm:g}" if args.max_grad_norm else "none")
        assert patience == (f"{args.early_stopping_patience} on F1" if args.early_stopping_patience else "none")
        assert kept == ("best" if args.load_best_model_at_end else "last")
    assert not re.search("[A-Z]+_TABLE|SCRATCH_[A-Z]", text)  # nothing is left to fill in
