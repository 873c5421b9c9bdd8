"""What comes with the package: small, whole, licensed, and as good as it states, on raw text and short ones, too."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Sequence
from transformers import pipeline

from benchmarks.sentiment import CHANGES, PHRASES, predict
from scripts.bundle import make_normalisers, mute_unknown, read_alike
from scripts.e5 import SPECIAL, build_tokenizer
from smsa import SentimentClassifier
from smsa.data.datasets import read_rows
from smsa.data.labels import LABELS
from smsa.data.normaliser import write_plainly
from smsa.evaluation.perturbations import perturb
from smsa.models.loading import BUNDLED, DEFAULT, E5, ENCODER, FAST, FOLDER, load_classifier
from smsa.sharing.card import render_card
from smsa.training.metrics import score_label_ids

TEXTS = ["Makanannya enak sekali, pelayanannya ramah!", "Rapat dimulai pukul sembilan pagi.", "Kamarnya kotor dan bau."]


def read(name: str, file: str) -> dict:
    return json.loads((FOLDER / name / file).read_bytes())


@pytest.fixture(scope="module")
def classifier():
    return SentimentClassifier.from_pretrained(E5, device="cpu", precision="no")


@pytest.mark.parametrize("name", BUNDLED)
def test_they_are_small_and_whole_and_name_no_folder_of_the_machine_that_made_them(name):
    folder = FOLDER / name
    files = {path.name for path in folder.iterdir()}
    assert files == {*read(name, "run.json")["outputs"], "run.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= (27e6 if name == E5 else 8e6)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F8_E4M3", "F16"}
    text = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".json", ".md"))
    assert not any(word in text for word in ("/work", "/home", "/root", "/tmp"))
    # a copy under another name, calibrated or pushed, still names its sources
    assert (origins := read(name, "run.json")["origins"]) in render_card(folder, "me/copy") and "licence |" in origins


def test_without_a_name_the_mean_of_both_classifiers_is_used_and_they_label_as_plain_transformers(caplog):
    unnamed = SentimentClassifier.from_pretrained(device="cpu", precision="no")
    assert f"this is {FAST}+{E5}, the mean of both" in caplog.text and f"{FAST} alone is several" in caplog.text
    pipelines = [pipeline("text-classification", BUNDLED[name], device="cpu", top_k=None) for name in (FAST, E5)]
    for text, label, found in zip(TEXTS, LABELS, unnamed(TEXTS), strict=True):
        scores = [{one["label"]: one["score"] for one in classify([text])[0]} for classify in pipelines]
        assert found["label"] == label
        for name in LABELS:
            assert found[f"p_{name}"] == pytest.approx(np.mean([score[name] for score in scores]), abs=1e-4)


@pytest.mark.parametrize("is_raw", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_its_score_is_the_one_that_it_states_and_raw_text_costs_it_at_most_two_points(classifier, smsa_files, is_raw):
    texts, label_ids, _, _ = read_rows(smsa_files["valid"])
    texts = perturb(texts, ("capitals", "no space")) if is_raw else texts
    predicted = [LABELS.index(answer["label"]) for answer in classifier(texts)]
    f1 = score_label_ids(np.array(predicted), np.array(label_ids), LABELS)["f1"]
    stated = read(E5, "metrics.json")["valid"]["f1"]
    assert stated > 0.8623  # TF-IDF with logistic regression
    assert f1 >= stated - 0.02 if is_raw else f1 == pytest.approx(stated, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("name, bar", [(FAST, 0.75), (E5, 0.93), (DEFAULT, 0.93)])
def test_phrases_are_labelled_rightly_and_what_says_nothing_flips_no_label(name, bar):
    classifier = SentimentClassifier.from_pretrained(name, device="cpu", precision="no", backend="torch")
    texts, gold, _, _ = read_rows(PHRASES)
    label_ids = predict(classifier, texts).argmax(-1)
    assert np.mean(label_ids == gold) >= bar
    for change, make in CHANGES.items():
        changed = make(texts)
        assert sum(text != short for text, short in zip(changed, texts, strict=True)) >= 50
        assert np.mean(predict(classifier, changed).argmax(-1) == label_ids) >= 0.98, change


@pytest.mark.parametrize("name", BUNDLED)
def test_their_tokenizers_have_the_normalisers_of_the_code(name):
    found = read(name, "tokenizer.json")["normalizer"]["normalizers"]
    made = build_tokenizer([(token, 0.0) for token in SPECIAL]).normalizer  # e5's
    steps = [made] if name == E5 else write_plainly()  # mini's first step is BERT's own
    steps = Sequence(steps if name == ENCODER else [*steps, *make_normalisers()])
    assert found[name != E5 :] == json.loads(steps.__getstate__())["normalizers"]


@pytest.mark.parametrize("name", [FAST, E5])
@pytest.mark.parametrize("text, alike, unlike", [
    ("enak di Jakarta", ["enak di MALANG !!", "Enak  di ambon", "ENAK DI yogyakartaaaa"], "enak di jakartanya"),
    ("sungguh malang", [], "sungguh bandung"),
    ("nasi dari Malang enak", ["nasi dari Bogor enak"], "nasi dari malangnya enak"),
    ("kak Indah, jelek", ["kak Bagus, jelek", "kak Siti, jelek"], "indah, jelek"),
    ("kata Siti, kurang", ["kata RINA, kurang", "kata Agus, kurang"], "kata indah, kurang"),
    ("bayar 50000 rusak", ["bayar 12 rusak", "bayar 1.500.000,00 rusak", "bayar 2024 rusak"], "bayar 2 rusak"),
    ("nilai 10", [], "nilai 12"),
    ("nilai 100", [], "nilai 101"),
    ("nilai 85/90", [], "nilai 15/90"),
    ("diskon 70%", [], "diskon 700%"),
    ("diskon 12,5%", [], "diskon 13,5%"),
    ("pi 3.14159", [], "pi 3.14160"),
    ("rating 4.5", [], "rating 1.5"),
])  # fmt: skip
def test_another_place_name_or_number_is_the_same_text_but_a_word_or_a_rating_is_another(name, text, alike, unlike):
    _, tokenizer = load_classifier(name)
    ids = tokenizer([text, *alike, unlike])["input_ids"]
    assert all(other == ids[0] for other in ids[:-1]) and ids[-1] != ids[0]
    assert tokenizer.unk_token_id not in ids[0]


@pytest.mark.parametrize("name", [FAST, E5])
def test_what_a_model_does_not_know_says_next_to_nothing(name):
    model, tokenizer = load_classifier(name)
    unknown = ["\u1b8a\u1b92", "\U0001fae0", "\U0001fae4 \U0001fae4", "\u304a\u3059"]  # Sundanese, new emoji, hiragana
    assert all(tokenizer.unk_token_id in ids for ids in tokenizer(unknown)["input_ids"])
    classifier = SentimentClassifier(model, tokenizer, device="cpu", precision="no")
    assert predict(classifier, unknown).max() < 0.75
    texts, _, _, _ = read_rows(PHRASES)
    label_ids = predict(classifier, texts).argmax(-1)
    for changed in ([f"{text} {unknown[0]}" for text in texts], [f"{unknown[0]} {text}" for text in texts]):
        assert np.mean(predict(classifier, changed).argmax(-1) == label_ids) >= 0.97


@pytest.mark.parametrize("name", [FAST, E5])
def test_bundling_lets_a_tokenizer_read_alike_as_the_bundled_one_does(name, tmp_path):
    folder = shutil.copytree(FOLDER / name, tmp_path / "copy")
    bundled = read(name, "tokenizer.json")
    before = bundled["normalizer"] | {"normalizers": bundled["normalizer"]["normalizers"][: -len(make_normalisers())]}
    (folder / "tokenizer.json").write_text(json.dumps(bundled | {"normalizer": before}), encoding="utf-8")
    for _ in range(2):  # again, after a further step of training
        read_alike(folder)
        assert json.loads((folder / "tokenizer.json").read_bytes()) == bundled


@pytest.mark.parametrize("name", [FAST, E5])
def test_bundling_mutes_the_unknown_as_it_did_for_what_is_bundled(name, tmp_path):
    folder = shutil.copytree(FOLDER / name, tmp_path / "copy")
    bundled, weights = load_file(folder / "model.safetensors"), load_file(folder / "model.safetensors")
    (key,) = [key for key in weights if key.endswith(("word_embeddings.weight", "tok_embeddings.weight"))]
    weights[key][load_classifier(name)[1].unk_token_id] = 1.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    mute_unknown(folder)
    muted = load_file(folder / "model.safetensors")
    assert all(torch.equal(muted[key].float(), values.float()) for key, values in bundled.items())


@pytest.mark.parametrize("name", BUNDLED)
def test_every_source_may_be_bundled_and_none_is_what_the_models_are_measured_on(name):
    path = ROOT / ("recipes/pretrain-mini.yaml" if name == ENCODER else "data/mixture/recipe.yaml")
    record, recipe = read(name, "run.json"), yaml.safe_load(path.read_text(encoding="utf-8"))
    sources = list(record["data"])
    if name != ENCODER:
        mixture = read(name, "mixture.json")
        assert record["data"]["train"]["sha256"] == mixture["inserted"]["sha256"] and mixture["n_overlapping"] == 0
        last = yaml.safe_load((ROOT / "recipes" / "biases.yaml").read_text(encoding="utf-8"))
        assert Path(last["train_file"]).name == record["data"]["train"]["file"]
        settings = {
            key: record["settings"][key] for key in ("freeze_matrices", "rdrop_alpha", "num_train_epochs", "seed")
        }
        assert settings == {key: last[key] for key in settings}
        assert {"indolem-sentiment.csv", "casa-test.csv"} <= set(mixture["kept_out"]) == set(recipe["kept_out"])
        sources = list(mixture["sources"])
    assert sources == [source.split("=")[0] for source in recipe["sources"]]
    for source in sources:
        (licence,) = re.findall(rf"^\| `{source}` \|.*\| ([^|]+) \|$", record["origins"], re.MULTILINE)
        assert re.search(r"MIT|Apache-2\.0|CC BY|our own", licence) and not re.search("NC|ND", licence)
