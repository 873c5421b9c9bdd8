"""scripts/eval.py, baseline.py and calibrate.py on the sample and a tiny model."""

import importlib.metadata
import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import SAMPLE_DIR, make_model, make_tokenizer
from PIL import Image
from transformers import pipeline

import smsa
from scripts import baseline, calibrate
from scripts import eval as script
from smsa.cli import exit_on_error, parse
from smsa.data.datasets import DataArguments
from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation.arguments import (
    BaselineArguments,
    CalibrationArguments,
    EvaluationArguments,
    LabelledFileArguments,
)
from smsa.evaluation.calibration import last_layer
from smsa.evaluation.report import LabelledFile
from smsa.inference.engine import EngineArguments

VALID = SAMPLE_DIR / "valid_preprocess.tsv"
TORCH = ("--backend", "torch", "--precision", "no")


def run_script(script, kind, *options) -> dict:
    with exit_on_error():
        return script.main(*parse(kind, LabelledFileArguments, EngineArguments, argv=[*map(str, options), *TORCH]))


run_eval, run_calibrate = (
    partial(run_script, script, EvaluationArguments),
    partial(run_script, calibrate, CalibrationArguments),
)


def load(folder) -> smsa.SentimentClassifier:
    return smsa.SentimentClassifier.from_pretrained(str(folder), backend="torch", precision="no")


def read_folder(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model(tmp_path):
    """A model that is far too sure of itself."""
    model = make_model()
    _, layer = last_layer(model)
    layer.weight.data *= 40
    layer.bias.data = torch.tensor([0.3, -0.1, 0.05])
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_baselines_and_models_are_evaluated_side_by_side(tmp_path, model):
    for kind in ("keyword", "majority"):
        argv = ["--kind", kind, "--data_dir", str(SAMPLE_DIR), "--output", str(tmp_path / kind)]
        args = parse(BaselineArguments, DataArguments, argv=argv)
        own = baseline.main(*args)
        assert json.loads((tmp_path / kind / "report.json").read_text()) == own
    with pytest.raises(UserError, match="is not empty .baseline.json, .*: choose another --output"):
        baseline.main(*args)
    options = ["--data", VALID, "--output", tmp_path / "report", "--robustness", "--train_file", VALID, "--seed", "5"]
    report = run_eval("--compare", tmp_path / "keyword", tmp_path / "majority", model, *options)
    keyword, majority, evaluated = report["systems"]
    assert [system["name"] for system in report["systems"]] == ["keyword", "majority", "model"]
    assert len(report["comparisons"]) == 3 and report["data"]["n_texts"] == 66
    assert report["intervals"]["seed"] == 5 and keyword["slices"]["also in train"]["n"] == 66
    assert keyword["robustness"]["elongated"] != keyword["robustness"]["as it is"] == keyword["metrics"]["f1"]["value"]
    assert own["systems"][0]["confusion"] == majority["confusion"]
    assert (tmp_path / "report" / "report.md").is_file()

    data = LabelledFile.read(VALID, LABELS)
    right = [row["label"] == LABELS[i] for row, i in zip(load(model)(data.texts), data.gold, strict=True)]
    assert evaluated["metrics"]["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert [system.get("engine", {}).get("backend") for system in report["systems"]] == [None, None, "torch"]
    assert report["environment"]["torch"] == importlib.metadata.version("torch")


@pytest.mark.parametrize("options", ["--model c --compare d", "--compare a", "--compare a b --model_revision main"])
def test_options_that_contradict_each_other_end_with_status_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_eval("--data", "a", "--output", "b", *options.split())
    assert stopped.value.code == 2 and "--compare" in capsys.readouterr().err.splitlines()[-1]


def test_a_calibrated_model_is_a_new_folder_with_a_temperature_and_the_same_labels(model, tmp_path):
    before = read_folder(model)
    report = run_calibrate("--model", model, "--data", VALID, "--output", tmp_path / "calibrated")
    assert read_folder(model) == before and read_folder(tmp_path / "calibrated").keys() == before.keys()
    one, other = report["systems"]
    assert other["calibration"]["expected_calibration_error"] < one["calibration"]["expected_calibration_error"]
    assert report["temperature"] > 1 and one["confusion"] == other["confusion"]
    config = json.loads((tmp_path / "calibrated" / "config.json").read_text())
    assert config["smsa_temperature"] == pytest.approx(report["temperature"])


def test_calibrate_can_put_the_normaliser_where_every_client_finds_it(model, tmp_path):
    output = tmp_path / "normalised"
    run_calibrate("--model", model, "--data", VALID, "--output", output, "--normalise_elongated")
    classify = pipeline("text-classification", model=str(output))
    assert classify("muraaaah") == classify("murah")
    assert load(output)("muraaaah")["score"] == pytest.approx(classify("murah")[0]["score"], abs=1e-6)


def test_the_card_and_the_examples_of_a_calibrated_model_are_its_own(tmp_path):
    output = tmp_path / "mine"
    run_calibrate("--model", "mini-sentiment", "--data", VALID, "--output", output)
    card, classifier = (output / "README.md").read_text(), load(output)
    temperature = json.loads((output / "config.json").read_text())["smsa_temperature"]
    assert f"temperature of {temperature:.3f}" in card
    for example in json.loads((output / "metrics.json").read_text())["examples"]:
        assert example["score"] == pytest.approx(classifier(example["text"])["score"], abs=1e-6)
        assert f"{example['score']:.3f}" in card


def test_the_report_of_a_run_has_a_picture_of_its_history(tmp_path):
    run_eval("--model", "mini-sentiment", "--data", VALID, "--output", tmp_path / "report")
    picture = Image.open(tmp_path / "report" / "history.png").convert("RGB")
    assert picture.width > 1000 and picture.getpixel((0, 0)) == (255, 255, 255)
    n_blue = sum(np.abs(np.asarray(picture).astype(int) - (0x00, 0x72, 0xB2)).sum(-1).ravel() < 30)  # of train
    assert n_blue > 10 and "![history](history.png)" in (tmp_path / "report" / "report.md").read_text()


def test_what_cannot_be_calibrated_leaves_no_model(model, tmp_path):
    output = tmp_path / "calibrated"
    (model / "predictions_valid.csv").touch()  # of its run, which no copy of a model has
    for data, target, message in ((tmp_path / "nowhere.tsv", output, "does not exist"), (VALID, model, "is not empty")):
        before = read_folder(model)
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            run_calibrate("--model", model, "--data", data, "--output", target)
        assert read_folder(model) == before and (not output.exists() or not any(output.iterdir()))
    run_calibrate("--model", model, "--data", VALID, "--output", output)
    assert {*read_folder(output)} == before.keys() - {"predictions_valid.csv"}
