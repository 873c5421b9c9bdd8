"""What comes with the package: small, whole, honest about itself, and good on raw text, too."""

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml
from cards import check_card
from conftest import ROOT, SAMPLE_DIR, run
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import pipeline

from smsa import SentimentClassifier, load_model
from smsa.data.datasets import read_rows
from smsa.data.labels import LABELS
from smsa.evaluation.perturbations import perturb
from smsa.evaluation.report import OPENING_LABELS, OPENING_SENTENCES
from smsa.models.bundled import BUNDLED, CLASSIFIER, ENCODER, FOLDER, find_bundled
from smsa.models.loading import load_encoder
from smsa.sharing.card import EXAMPLES
from smsa.training.metrics import score_label_ids

RECIPE = yaml.safe_load((ROOT / "recipes" / "pretrain-mini.yaml").read_text())


def read(name: str, file: str) -> dict:
    return json.loads((FOLDER / name / file).read_bytes())


@pytest.fixture(scope="module")
def classifier():
    return SentimentClassifier.from_pretrained(CLASSIFIER, device="cpu", precision="no")


def macro_f1(classifier, texts, label_ids) -> float:
    found = [LABELS.index(answer["label"]) for answer in classifier(list(texts))]
    return score_label_ids(np.array(found), np.array(label_ids), LABELS)["f1"]


@pytest.mark.parametrize("name", BUNDLED)
def test_they_are_small_and_whole_and_say_nothing_of_the_machine_that_made_them(name):
    folder = FOLDER / name
    files = {path.name for path in folder.iterdir()}
    assert files == {*read(name, "run.json")["outputs"], "run.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}
    assert read(name, "run.json")["n_parameters"] <= 12e6
    text = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".json", ".md"))
    assert not [word for word in ("/work", "/home", "/root", "/tmp") if word in text]


def test_the_encoder_has_no_weight_at_random_and_its_card_names_every_source_with_its_licence(caplog):
    caplog.set_level("INFO")
    model, tokenizer = load_encoder(ENCODER)
    assert not any("Starts at random" in message for message in caplog.messages)
    assert len(tokenizer) == model.config.vocab_size == RECIPE["vocab_size"]
    card, run_record = ModelCard.load(FOLDER / ENCODER / "README.md"), read(ENCODER, "run.json")
    assert card.data.license == "cc-by-sa-4.0"
    sources = [source.split("=")[0] for source in RECIPE["sources"]]
    assert sources == list(run_record["data"])
    licences = (ROOT / "docs" / "mini-sources.md").read_text(encoding="utf-8")
    for source in sources:
        (row,) = [line for line in licences.splitlines() if line.startswith(f"| `{source}` ")]
        assert any(licence in row.split("|")[4] for licence in ("MIT", "Apache-2.0", "CC BY-SA"))
        assert row in card.text and run_record["data"][source]["sha256"] in card.text
    for option, value in RECIPE.items():
        if option not in ("output_dir", "sources"):
            assert run_record["settings"][option] == (float(value) if "rate" in option else value)


def test_the_classifier_was_made_from_the_encoder_and_its_card_says_what_was_measured():
    run_record = read(CLASSIFIER, "run.json")
    assert run_record["base_model"] == {"kind": "bundled", "name": ENCODER, "license": "cc-by-sa-4.0"}
    card = (FOLDER / CLASSIFIER / "README.md").read_text(encoding="utf-8")
    check_card(card, read(CLASSIFIER, "metrics.json"), run_record)
    recipe = yaml.safe_load((ROOT / "recipes" / "mini.yaml").read_text())
    for option in recipe.keys() - {"output_dir", "model_name_or_path", "learning_rate"}:
        assert run_record["settings"][option] == recipe[option]
    assert run_record["settings"]["learning_rate"] == float(recipe["learning_rate"])  # YAML takes 3e-4 for a text
    f1 = 100 * read(CLASSIFIER, "metrics.json")["valid"]["f1"]
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/mini.md"))
    assert re.search(rf"^\| `mini-sentiment` \| [^|]* \| {f1:.1f} \(", readme, re.MULTILINE)
    assert re.search(rf"^\| `recipes/mini.yaml` \|.* {f1:.2f} \|", page, re.MULTILINE)


def test_the_encoder_has_biases():
    config = read(ENCODER, "config.json")
    assert config["norm_bias"] and config["mlp_bias"] and config["attention_bias"]


def test_any_other_name_stays_what_it_is():
    assert find_bundled("./mini") == "./mini"
    assert find_bundled("indobenchmark/indobert-base-p1") == "indobenchmark/indobert-base-p1"


def test_without_a_name_it_is_used_and_says_how_good_it_is(tmp_path, caplog):
    classifier = SentimentClassifier.from_pretrained()
    assert classifier.labels == LABELS
    scores = read(CLASSIFIER, "metrics.json")["valid"]
    assert f"its macro F1 is {100 * scores['f1']:.1f} (" in caplog.text and "IndoBERT" in caplog.text
    source = str(SAMPLE_DIR / "valid_preprocess.tsv")
    for name, words in (("default.csv", ()), ("named.csv", ("--model", CLASSIFIER))):
        words = ("--input", source, "--output", str(tmp_path / name), *words)
        status, text = run(sys.executable, "scripts/predict.py", *words, cwd=ROOT)
        assert status == 0, text
        assert ("No model was named" in text) == (name == "default.csv")
    assert (tmp_path / "default.csv").read_bytes() == (tmp_path / "named.csv").read_bytes()


def test_plain_transformers_loads_it_and_agrees(classifier):
    texts = [*EXAMPLES, *OPENING_SENTENCES]
    classify = pipeline("text-classification", model=find_bundled(CLASSIFIER), device="cpu")
    for answer, expected in zip(classify(texts), classifier(texts), strict=True):
        assert answer["label"] == expected["label"]
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_it_answers_as_a_person_would_but_for_what_the_page_admits(classifier):
    texts, labels = [*EXAMPLES, *OPENING_SENTENCES], [*LABELS, *OPENING_LABELS]
    answers = [answer["label"] for answer in classifier(texts)]
    page = (ROOT / "docs" / "mini.md").read_text(encoding="utf-8")
    wrong = [f'"{text}": {found}' for text, found, label in zip(texts, answers, labels, strict=True) if found != label]
    assert wrong == [line.removeprefix("- ") for line in page.splitlines() if line.startswith('- "')]


def test_its_scores_are_those_it_states_and_raw_text_costs_at_most_two_points(classifier, smsa_files):
    texts, label_ids, _, _ = read_rows(smsa_files["valid"])
    as_written = macro_f1(classifier, texts, label_ids)
    assert as_written == pytest.approx(read(CLASSIFIER, "metrics.json")["valid"]["f1"], abs=0.001)
    for styles in (("capitals",), ("no space",), ("capitals", "no space")):
        assert macro_f1(classifier, perturb(texts, styles), label_ids) >= as_written - 0.02


def test_it_is_better_than_the_baselines_and_mini_starts_where_it_should(smsa_files):
    assert read(CLASSIFIER, "metrics.json")["valid"]["f1"] > 0.8623  # TF-IDF: see README.md
    model, _ = load_model(ENCODER)
    assert model.config.mlp_dropout > 0


@pytest.mark.slow
def test_they_are_in_the_wheel(tmp_path):
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(words, check=True)
    (wheel,) = tmp_path.glob("smsa-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in BUNDLED:
        assert {f"smsa/bundled/{name}/{path.name}" for path in (FOLDER / name).iterdir()} <= set(names)
