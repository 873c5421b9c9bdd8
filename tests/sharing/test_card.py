"""The model card: every figure of it comes from what was measured, and the Hub's client takes it."""

import json

import numpy as np
import pytest
from cards import SCORES, check_card
from huggingface_hub import ModelCard

from smsa.data.labels import EXAMPLES, LABELS
from smsa.files import write_json
from smsa.sharing.card import CARD, describe_base, render_card


def make_scores(random: np.random.Generator) -> dict:
    """Scores of a split that are all different, so that no figure can stand in for another."""
    names = [*SCORES, *(f"{score}_{label}" for score in SCORES[1:] for label in LABELS)]
    scores = {name: float(random.random()) for name in names}
    return scores | {f"n_{label}": int(random.integers(10, 9999)) for label in LABELS}


@pytest.fixture
def folder(tmp_path):
    """What a run leaves for its card."""
    folder = tmp_path / "finished"
    folder.mkdir()
    random = np.random.default_rng(0)
    examples = []
    for text in EXAMPLES:
        shares = {f"p_{label}": share for label, share in zip(LABELS, random.dirichlet(np.ones(3)).tolist())}
        best = max(shares, key=shares.get)
        examples.append({"text": text, "label": best.removeprefix("p_"), "score": shares[best], **shares})
    metrics = {"epoch": 7, "train": {"loss": 0.123}, "examples": examples}
    metrics |= {"valid": make_scores(random), "test": make_scores(random)}
    data = {split: {"file": f"/home/me/secret/{split}.csv", "sha256": split * 8, "is_smsa": False, "n_texts": n_texts}
            for split, n_texts in (("train", 11_000), ("valid", 1260), ("test", 500))}  # fmt: skip
    run = {
        "labels": list(LABELS), "data": data, "seed": 12, "world_size": 2, "n_parameters": 124_443_651,
        "base_model": {"kind": "hub", "name": "indobenchmark/indobert-base-p1", "license": "mit"},
        "model_commit": "c0ffee", "precision_in_effect": "bf16", "train_runtime_seconds": 3 * 60 + 47.4,
        "hardware": {"gpus": [], "cpu": "A Processor", "n_threads": 6},
        "settings": {"model_name_or_path": "/home/me/secret/base", "learning_rate": 1e-5, "labels": None,
                     "max_length": 128, "load_best_model_at_end": True, "optim": "adamw_torch",
                     "lr_scheduler_type": "cosine"},
        "versions": {"python": "3.11.7", "torch": "2.13.0", "smsa": None},
    }  # fmt: skip
    write_json(metrics, folder / "metrics.json")
    write_json(run, folder / "run.json")
    write_json({}, folder / "config.json")
    return folder


def read(folder) -> tuple[dict, dict]:
    return tuple(json.loads((folder / name).read_bytes()) for name in ("metrics.json", "run.json"))


def test_every_figure_is_the_one_that_was_measured(folder):
    card = render_card(folder, "me/indonesian-sentiment")
    check_card(card, *read(folder))
    assert "/home/me" not in card  # no path of the machine
    assert "# indonesian-sentiment\n" in card and card.count("me/indonesian-sentiment") == 3
    assert "0 `positive`, 1 `neutral`, 2 `negative`" in card
    assert "2 processes on A Processor, 6 threads, in bf16, 3 min 47 s, seed 12." in card
    card = render_card(folder, r"runs\baru 1")
    assert card.count(r'"runs\\baru 1"') == 2 and r"--model 'runs\baru 1' --input" in card
    scores = read(folder)[0]["test"]  # of two splits, the one by which the epoch was not chosen
    weakest = min(LABELS, key=lambda label: scores[f"f1_{label}"])
    assert f"- `{weakest}` is the label that it predicts worst: F1 {100 * scores[f'f1_{weakest}']:.1f}." in card
    by_label = ", ".join(f"{label} {100 * scores[f'f1_{label}']:.1f}" for label in LABELS)
    summary = f"macro F1-nya {100 * scores['f1']:.1f} %, dan F1 tiap label: "
    assert f"Pada test.csv (500 teks) {f'{summary}{by_label}'.replace('.', ',')}." in card
    assert "[indobenchmark/indobert-base-p1](https://huggingface.co/indobenchmark/indobert-base-p1)" in card
    assert ModelCard(card).data.base_model == "indobenchmark/indobert-base-p1"


def test_smsa_is_cited_and_other_data_is_named_by_its_file_and_a_label_without_texts_is_a_limit(folder):
    metrics, run = read(folder)
    card = render_card(folder, "me/model")
    assert "Purwarianti" not in card and "`train.csv`, 11,000 texts, sha256" in card
    assert ModelCard(card).data.datasets is None and "No text that it was evaluated on" not in card
    for part in run["data"].values():
        part["is_smsa"] = True
    metrics["test"] |= {"n_neutral": 0, "f1_neutral": 0.0}
    run["data"]["valid"] |= {"is_smsa": False, "sha256": run["data"]["train"]["sha256"]}  # split off
    write_json(run, folder / "run.json")
    write_json(metrics, folder / "metrics.json")
    card = render_card(folder, "me/model")
    check_card(card, metrics, run)
    assert "Purwarianti" in card and "train.csv" not in card and "| valid.csv, held out of training | 1,260 |" in card
    assert ModelCard(card).data.datasets == ["indonlp/indonlu"]
    assert {result.dataset_type for result in ModelCard(card).data.eval_results} == {"indonlp/indonlu", "own"}
    assert "No text that it was evaluated on is `neutral`; the macro scores" in card
    assert "`neutral` is the label that it predicts worst" not in card and "neutral 0,0" not in card


def test_a_model_that_was_changed_after_its_evaluation_has_a_card_that_says_so(folder):
    metrics, run = read(folder)
    card = render_card(folder, "me/model")
    assert "temperature" not in card and "elongated letters" not in card
    write_json({"smsa_temperature": 2.0, "smsa_normalised": True}, folder / "config.json")
    card = render_card(folder, "me/model")
    check_card(card.replace(" of 2.000", ""), metrics, run)
    assert "divided by a temperature of 2.000" in card and "reads elongated letters as one" in card


def test_the_licence_is_that_which_the_base_model_states(folder, tmp_path, caplog):
    caplog.set_level("INFO")
    assert describe_base("scratch")["license"] == "apache-2.0"
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for stated, licence in (("license: mit", "mit"), ("license: [a, b", None)):
        (encoder / CARD).write_text(f"---\n{stated}\n---\n# An encoder\n")
        assert describe_base(str(encoder)) == {"kind": "folder", "name": "encoder", "license": licence}
    assert describe_base("me/nowhere") == {"kind": "hub", "name": "me/nowhere", "license": None}  # no network here
    assert "The card of me/nowhere cannot be read" in caplog.text

    write_json(read(folder)[1] | {"base_model": describe_base(str(encoder))}, folder / "run.json")
    caplog.clear()
    card = render_card(folder, "me/model", "")
    assert not caplog.text  # the Hub's library warns of a card without metadata, also of none
    check_card(card, *read(folder))
    assert "The encoder in `encoder` states no licence that smsa could read." in card
    assert ModelCard(card).data.base_model is None
    card = render_card(folder, "me/model", "---\nlicense: cc-by-4.0\n---\n")  # what the owner wrote stays
    assert ModelCard(card).data.license == "cc-by-4.0"
