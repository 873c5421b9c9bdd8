"""Temperature folded into a model: every client gives the calibrated probabilities, and no label moves."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE_DIR, make_model, make_tokenizer
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from scripts import score
from smsa.cli import parse
from smsa.data.labels import LABELS, label_maps
from smsa.evaluation import figures
from smsa.evaluation.arguments import EvaluationArguments
from smsa.evaluation.calibration import last_layer, require_unseen, store_temperature
from smsa.evaluation.report import LabelledFile, judge_calibrated
from smsa.inference.arguments import EngineArguments
from smsa.inference.classifier import SentimentClassifier
from smsa.models.loading import load_classifier

VALID = SAMPLE_DIR / "valid_preprocess.tsv"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 60}


@pytest.fixture
def folder(tmp_path):
    """A model that is far too sure of itself."""
    model = make_model()
    _, layer = last_layer(model)
    layer.weight.data *= 40
    layer.bias.data = torch.tensor([0.3, -0.1, 0.05])
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_score(*options) -> dict:
    return score.main(
        *parse(
            EvaluationArguments, EngineArguments, argv=[*map(str, options), "--backend", "torch", "--precision", "no"]
        )
    )


def test_score_calibrates_a_model_for_every_client(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "before")
    options = ("--model", folder, "--data", VALID)
    report = run_score(*options, "--output", tmp_path / "report", "--calibrate", "--robustness")
    before, after = report["systems"]
    assert (before["name"], after["name"]) == ("model", "model (calibrated)")
    assert report["temperature"] > 1
    errors = [system["calibration"]["expected_calibration_error"] for system in (before, after)]
    assert errors[1] < errors[0]
    assert before["confusion"] == after["confusion"] and before["robustness"] == after["robustness"]
    for one, other in zip(before["opening_sentences"], after["opening_sentences"], strict=True):
        assert one["label"] == other["label"] and one["probabilities"][one["label"]] > max(
            *other["probabilities"].values()
        )
    text = (tmp_path / "report" / "report.md").read_text()
    assert f"temperature of {report['temperature']:.3f}" in text

    texts = LabelledFile.read(VALID, LABELS).texts
    again = run_score(*options, "--output", tmp_path / "again")["systems"][0]
    assert again["confusion"] == before["confusion"]
    assert again["calibration"]["expected_calibration_error"] == pytest.approx(errors[1], abs=1e-6)
    sure, calibrated = (
        pipeline("text-classification", model=str(path), top_k=None)(texts) for path in (tmp_path / "before", folder)
    )
    for one, other in zip(sure, calibrated, strict=True):
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]
        logits = np.log([answer["score"] for answer in one]) / report["temperature"]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert [answer["score"] for answer in other] == pytest.approx(expected, abs=1e-4)
    assert json.loads((folder / "config.json").read_text())["smsa_temperature"] == pytest.approx(report["temperature"])
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "before").iterdir()}


def test_a_folder_of_the_name_of_a_shipped_model_is_the_one_that_is_judged_and_changed(folder, tmp_path, monkeypatch):
    folder.rename(tmp_path / "mini-sentiment")
    before = load_file(tmp_path / "mini-sentiment" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    report = run_score("--model", "./mini-sentiment", "--data", VALID, "--output", "report", "--calibrate")
    after = load_file(tmp_path / "mini-sentiment" / "model.safetensors")
    for name, tensor in before.items():
        divisor = report["temperature"] if name.startswith("classifier.") else 1
        torch.testing.assert_close(after[name], tensor / divisor)
    names = score.name_systems(["mini-sentiment", "./mini-sentiment"])
    assert names == {"mini-sentiment": "mini-sentiment", "./mini-sentiment": "./mini-sentiment"}
    with pytest.raises(ValueError, match="given twice"):
        score.name_systems(["runs/a", "runs/./a/"])


@pytest.mark.parametrize("change", ["--calibrate", "--normalise"])
def test_a_report_that_cannot_be_written_leaves_the_model_as_it_was(folder, tmp_path, monkeypatch, change):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "draw", fail)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit, match="No space left"):
        run_score("--model", folder, "--data", VALID, "--output", tmp_path / "report", change)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_json_of_another_program_says_nothing_of_the_training_file(folder):
    (folder / "run.json").write_text('{"data": {"name": "other"}}')
    require_unseen(folder, VALID)


def test_a_second_calibration_starts_from_the_first(folder):
    assert store_temperature(folder, 2.0) == 2.0
    assert store_temperature(folder, 1.5) == 3.0


def test_the_weights_keep_their_precision_and_all_others_their_bytes(folder):
    model, _ = load_classifier(str(folder))
    model.half().save_pretrained(folder)
    before = load_file(folder / "model.safetensors")
    store_temperature(folder, 2.0)  # exact in fp16
    after = load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert all(tensor.dtype == torch.float16 for tensor in after.values())
    assert torch.equal(after["classifier.weight"] * 2, before["classifier.weight"])


def test_a_model_that_is_always_wrong_sets_no_temperature(folder, tmp_path):
    texts = LabelledFile.read(VALID, LABELS).texts
    given = [row["label"] for row in SentimentClassifier.from_pretrained(str(folder), backend="torch")(texts)]
    wrong = [[label for label in LABELS if label != answer][i % 2] for i, answer in enumerate(given)]
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(texts, wrong, strict=True))
    (tmp_path / "wrong.tsv").write_text(rows, encoding="utf-8")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match="texts of which 0% are labelled as gold set no temperature"):
        run_score("--model", folder, "--data", tmp_path / "wrong.tsv", "--output", tmp_path / "report", "--calibrate")
    assert not (tmp_path / "report").exists() and (folder / "model.safetensors").read_bytes() == before


def test_ties_that_a_temperature_breaks_are_refused():
    data = LabelledFile(VALID, LABELS, ["enak"], np.array([0]), np.array([1]), None)
    opening = [{"probabilities": dict.fromkeys(LABELS, 1 / 3)}] * 2
    judged = {"name": "tied", "kind": "stub", "opening_sentences": opening}
    judged["probabilities"] = np.array([[0.49999999999999994, 0.5, 0]])
    with pytest.raises(ValueError, match="tied has ties between labels, which a temperature of 20.000 breaks"):
        judge_calibrated("x", judged, data, 20.0)


@pytest.mark.parametrize("kind", ["roberta", "albert"])
def test_the_last_layer_is_found_whatever_the_head(tmp_path, kind):
    torch.manual_seed(0)
    if kind == "roberta":
        model = RobertaForSequenceClassification(RobertaConfig(**SMALL, **label_maps(LABELS)))
    else:
        model = AlbertForSequenceClassification(AlbertConfig(embedding_size=8, **SMALL, **label_maps(LABELS)))
    _, layer = last_layer(model)
    layer.bias.data = torch.tensor([1.0, -2.0, 3.0])
    model.eval().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    with torch.no_grad():
        before = model(**batch).logits
        store_temperature(tmp_path, 4.0)
        after = AutoModelForSequenceClassification.from_pretrained(tmp_path)(**batch).logits
    assert after == pytest.approx(before / 4, abs=1e-6)


def test_what_cannot_be_calibrated_is_refused_and_stays(tmp_path, folder, monkeypatch):
    (tmp_path / "keyword").mkdir()
    (tmp_path / "keyword" / "baseline.json").write_text(json.dumps({"kind": "keyword", "labels": LABELS}))
    before = (folder / "model.safetensors").read_bytes()
    trained_on = {"train": {"sha256": hashlib.sha256(Path(VALID).read_bytes()).hexdigest()}}
    shutil.copytree(folder, tmp_path / "trained")
    (tmp_path / "trained" / "run.json").write_text(json.dumps({"data": trained_on}))
    shutil.copytree(folder, tmp_path / "mini-sentiment")
    monkeypatch.chdir(tmp_path)  # where a folder has the name of a model that comes with smsa
    for options, message in (
        (["--model", tmp_path / "keyword"], "is none"),
        (["--model", "mini-sentiment"], "mini-sentiment is none. Of a model that comes with smsa, change a copy"),
        (["--model", tmp_path / "trained"], "was trained on .*, of which it is too sure: calibrate by valid"),
        (["--model", folder, "--data", tmp_path / "nowhere.tsv"], "does not exist"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_score("--data", VALID, *options, "--output", tmp_path / "report", "--calibrate")
        assert not (tmp_path / "report").exists()
    assert (folder / "model.safetensors").read_bytes() == before
    with pytest.raises(SystemExit) as stopped:
        parse(
            EvaluationArguments,
            EngineArguments,
            argv=["--data", "a", "--output", "b", "--compare", "c", "d", "--calibrate"],
        )
    assert stopped.value.code == 2
