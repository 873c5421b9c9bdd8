"""The model card: every figure of it comes from what was measured, and the Hub's client takes it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from cards import SCORES, check_card
from conftest import ROOT, make_model, make_tokenizer
from hub_double import run_hub
from huggingface_hub import ModelCard
from transformers import pipeline

from smsa.data.labels import LABELS
from smsa.evaluation.calibration import store_normaliser, store_temperature
from smsa.evaluation.statistics import bootstrap
from smsa.files import write_json
from smsa.sharing.card import EXAMPLES, OURS, describe_base, render_card
from smsa.training.results import answer_examples, measure_certainty, update_card


@pytest.fixture
def folder(tmp_path):
    """A model folder with measured answers and made-up scores that are all different."""
    folder = tmp_path / "finished"
    model, tokenizer = make_model(), make_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    random = np.random.default_rng(0)
    metrics = {"epoch": 7, "train": {"loss": 0.123}, "examples": answer_examples(model, tokenizer)}
    for split, n_texts in (("valid", 1260), ("test", 500)):
        gold = random.integers(0, 3, n_texts)
        metrics[split] = measure_certainty(gold, random.normal(size=(n_texts, 3)) + 1.5 * np.eye(3)[gold], LABELS)
        names = [*SCORES, *(f"{score}_{label}" for score in SCORES[1:] for label in LABELS)]
        metrics[split] |= {name: float(random.random()) for name in names}
        metrics[split] |= {f"n_{label}": int(random.integers(10, 9999)) for label in LABELS}
    data = {split: {"file": f"/home/me/secret/{split}.csv", "sha256": split * 8, "is_smsa": False, "n_texts": n_texts}
            for split, n_texts in (("train", 11_000), ("valid", 1260), ("test", 500))}  # fmt: skip
    run = {
        "labels": list(LABELS), "data": data, "seed": 12, "n_processes": 2, "n_parameters": 124_443_651,
        "normalised": False,
        "base_model": {"kind": "hub", "name": "indobenchmark/indobert-base-p1", "license": "mit"},
        "model_commit": "c0ffee", "precision_in_effect": "bf16", "train_runtime_seconds": 3 * 60 + 47.4,
        "hardware": {"gpus": [], "cpu": "A Processor", "n_threads": 6},
        "settings": {"model_name_or_path": "indobenchmark/indobert-base-p1", "learning_rate": 1e-5, "labels": None,
                     "max_length": 128, "load_best_model_at_end": True},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "smsa": None},
    }  # fmt: skip
    write_json(metrics, folder / "metrics.json")
    write_json(run, folder / "run.json")
    return folder


def read(folder) -> tuple[dict, dict]:
    return tuple(json.loads((folder / name).read_bytes()) for name in ("metrics.json", "run.json"))


def test_every_figure_is_the_one_that_was_measured(folder):
    card = render_card(folder, "me/indonesian-sentiment")
    check_card(card, *read(folder))
    assert "/home/me" not in card  # no path of the machine
    assert "# indonesian-sentiment\n" in card and card.count("me/indonesian-sentiment") == 3
    assert "0 `positive`, 1 `neutral`, 2 `negative`" in card
    assert "2 processes on A Processor, 6 threads, in bf16, 3 min 47 s." in card
    assert "seed 12. The epoch that was kept is 7." in card and "It has 124,443,651 parameters." in card
    scores = read(folder)[0]["test"]  # of two splits, the one that was not chosen by
    weakest = min(LABELS, key=lambda label: scores[f"f1_{label}"])
    assert f"- `{weakest}` is the label that it tells worst: F1 {100 * scores[f'f1_{weakest}']:.1f}." in card
    low, high = (f"{100 * end:.1f}" for end in scores["intervals"]["f1"])
    by_label = ", ".join(f"{label} {100 * scores[f'f1_{label}']:.1f}" for label in LABELS)
    summary = (
        f"macro F1-nya {100 * scores['f1']:.1f} % (selang kepercayaan 95 %: {low} sampai {high}), dan F1 tiap label: "
    )
    assert f"Pada test.csv (500 teks) {f'{summary}{by_label}'.replace('.', ',')}. Sarkasme" in card
    assert "[indobenchmark/indobert-base-p1](https://huggingface.co/indobenchmark/indobert-base-p1)" in card
    assert ModelCard(card).data.base_model == "indobenchmark/indobert-base-p1"


def test_what_a_run_adds_to_the_recipe_is_said(folder):
    _, run = read(folder)
    card = render_card(folder, "me/model")
    assert "which follows the recipe of IndoNLU. It" in card and "menurut resep IndoNLU. Pada" in card
    added = {"ema_decay": 0.99, "rdrop_alpha": 2, "class_weights": "none"}
    write_json(run | {"settings": run["settings"] | added}, folder / "run.json")
    card = render_card(folder, "me/model")
    assert "which adds averaged weights (`ema_decay`) and R-Drop (`rdrop_alpha`) to the recipe of IndoNLU" in card
    assert "menurut resep IndoNLU dengan tambahan rata-rata bobot (`ema_decay`) dan R-Drop (`rdrop_alpha`)." in card
    added = {"ema_decay": 0.0, "class_weights": "balanced"}
    write_json(run | {"settings": run["settings"] | added}, folder / "run.json")
    assert "which adds weighted labels (`class_weights`) to the recipe" in render_card(folder, "me/model")


def test_any_score_that_changes_changes_the_card(folder):
    metrics, _ = read(folder)
    before, n_changed = render_card(folder, "me/model"), 0
    for split in ("valid", "test"):
        for name, value in metrics[split].items():
            if not isinstance(value, float | int):
                continue
            write_json(metrics | {split: metrics[split] | {name: value / 2}}, folder / "metrics.json")
            assert render_card(folder, "me/model") != before, name
            n_changed += 1
    assert n_changed == 2 * (len(SCORES) + 9 + 3 + 1)


def test_a_label_that_no_text_had_is_among_the_limits(folder):
    metrics, _ = read(folder)
    assert "No text that it was measured on" not in render_card(folder, "me/model")
    write_json(metrics | {"test": metrics["test"] | {"n_neutral": 0}}, folder / "metrics.json")
    assert "No text that it was measured on is `neutral`; the macro scores count that" in render_card(
        folder, "me/model"
    )


def test_smsa_is_cited_and_other_data_is_named_by_its_file(folder):
    metrics, run = read(folder)
    card = render_card(folder, "me/model")
    assert "Purwarianti" not in card and "`train.csv`, 11,000 texts, sha256" in card
    assert ModelCard(card).data.datasets is None
    for split in ("train", "valid", "test"):
        run["data"][split]["is_smsa"] = True
    write_json(run, folder / "run.json")
    card = render_card(folder, "me/model")
    check_card(card, metrics, run)
    assert "Purwarianti" in card and "arXiv 2009.05387" in card and "train.csv" not in card
    assert ModelCard(card).data.datasets == ["indonlp/indonlu"]
    assert {result.dataset_type for result in ModelCard(card).data.eval_results} == {"indonlp/indonlu"}


def test_the_hubs_own_client_finds_the_card_valid(folder, tmp_path):
    (tmp_path / "card.md").write_text(render_card(folder, "me/model"), encoding="utf-8")
    code = "import sys; from huggingface_hub import ModelCard, RepoCard\n"
    code += "for kind in (ModelCard, RepoCard): kind.load(sys.argv[1]).validate()"
    with run_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "card.md"], capture_output=True, text=True, cwd=ROOT,
            env={"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert hub.requests_of("POST", "/api/validate-yaml") == 2


def test_a_model_that_is_changed_gets_a_card_that_says_so(folder):
    (folder / "README.md").write_text(render_card(folder, str(folder)))
    before, _ = read(folder)
    store_temperature(folder, 2.0)
    store_normaliser(folder)
    update_card(folder)
    metrics, run = read(folder)
    card = (folder / "README.md").read_text()
    check_card(card.replace(" of 2.000", ""), metrics, run)
    assert "divided by a temperature of 2.000" in card and "reads drawn-out letters as one" in card
    assert metrics["examples"] != before["examples"]
    assert {**metrics, "examples": 0} == {**before, "examples": 0}
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    for answer in metrics["examples"]:
        shares = {given["label"]: given["score"] for given in classify([answer["text"]])[0]}
        assert {label: answer[f"p_{label}"] for label in LABELS} == pytest.approx(shares, abs=1e-6)
        assert (answer["label"], answer["score"]) == (max(shares, key=shares.get), pytest.approx(max(shares.values())))
    assert [answer["text"] for answer in metrics["examples"]] == list(EXAMPLES)


def test_a_card_that_its_owner_took_over_stays(folder):
    for text in ("# Mine\n", None):
        if text is None:
            (folder / "README.md").unlink()
        else:
            (folder / "README.md").write_text(text)
        before = (folder / "metrics.json").read_bytes()
        update_card(folder)
        assert (folder / "metrics.json").read_bytes() == before
        assert (folder / "README.md").exists() == (text is not None)
    assert OURS in render_card(folder, "me/model")


def test_the_licence_is_that_which_the_encoder_states(tmp_path):
    assert describe_base("scratch") == {"kind": "scratch", "name": "scratch", "license": "apache-2.0"}
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    assert describe_base(str(encoder)) == {"kind": "folder", "name": "encoder", "license": None}
    (encoder / "README.md").write_text("---\nlicense: mit\n---\n# An encoder\n")
    assert describe_base(str(encoder))["license"] == "mit"
    (encoder / "README.md").write_text("---\nlicense: [a, b\n---\n# An encoder\n")
    assert describe_base(str(encoder))["license"] is None
    assert describe_base("me/nowhere") == {"kind": "hub", "name": "me/nowhere", "license": None}  # no network here


def test_a_card_without_a_known_licence_says_so(folder):
    metrics, run = read(folder)
    write_json(run | {"base_model": {"kind": "folder", "name": "encoder", "license": None}}, folder / "run.json")
    card = render_card(folder, "me/model")
    check_card(card, *read(folder))
    assert "The encoder in `encoder` states no licence that smsa could read." in card
    assert ModelCard(card).data.base_model is None


def test_certainty_is_that_of_the_report_worked_by_hand():
    gold = np.array([0, 0, 0, 1, 1, 2])
    logits = np.log(
        np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    )
    certainty = measure_certainty(gold, logits, LABELS)
    assert certainty["confusion"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert certainty["expected_calibration_error"] == pytest.approx(0.8 - 4 / 6)
    assert {score: certainty["intervals"][score] for score in SCORES} == bootstrap(np.array(certainty["confusion"]))
    assert certainty["intervals"]["f1_negative"] == (1, 1)
    low, high = certainty["intervals"]["f1_positive"]
    assert 0 <= low < 2 / 3 < high <= 1
