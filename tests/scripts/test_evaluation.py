"""scripts/eval.py, baseline.py and calibrate.py on the sample and a tiny model."""

import json
import re

import pytest
import torch
from conftest import SAMPLE_DIR, contents, make_model, read_json, save_tiny
from PIL import Image
from processes import run_here
from transformers import AutoTokenizer, pipeline

import smsa
from smsa.evaluation.perturbations import PERTURBATIONS
from smsa.files import hash_file
from smsa.runtime import describe_environment

VALID = SAMPLE_DIR / "valid_preprocess.tsv"
TORCH = ("--backend", "torch", "--precision", "no")


def evaluate(output, *words) -> dict:
    """Evaluate on the sample; return the report."""
    run_here("scripts/eval.py", "--data", VALID, "--output", output, *words, *TORCH)
    return read_json(output / "report.json")


def calibrate(model, output, *words, data=VALID, status=0) -> str:
    words = ["--model", model, "--output", output, "--data", data, *words, *TORCH]
    return run_here("scripts/calibrate.py", *words, status=status)


def load(folder) -> smsa.SentimentClassifier:
    return smsa.SentimentClassifier.from_pretrained(str(folder), backend="torch", precision="no")


@pytest.fixture
def model(tmp_path):
    """A model that is far too sure of itself."""
    model = make_model()
    model.classifier.weight.data *= 40
    model.classifier.bias.data = torch.tensor([0.3, -0.1, 0.05])
    return save_tiny(tmp_path / "model", model)


def test_baselines_and_models_are_evaluated_side_by_side(tmp_path, model, caplog):
    (model / "run.json").write_text(json.dumps({"data": {"train": {"sha256": hash_file(VALID)}}}))
    words = ["--kind", "majority", "--train_file", VALID, "--output", tmp_path / "alone"]  # valid is split off it
    run_here("scripts/baseline.py", *words)
    assert read_json(tmp_path / "alone" / "report.json")["data"]["n_texts"] == 7
    for kind, labels in (("keyword", "Negatif,Netral,Positif"), ("majority", "positive,neutral,negative")):
        words = ["--kind", kind, "--data_dir", SAMPLE_DIR, "--output", tmp_path / kind, "--labels", labels]
        run_here("scripts/baseline.py", *words)
    text = run_here("scripts/baseline.py", *words, status=1)
    assert "is not empty (baseline.json, " in text and "choose another --output" in text
    words = ["--robustness", "--train_file", VALID, "--seed", "5"]
    report = evaluate(tmp_path / "report", "--compare", tmp_path / "keyword", tmp_path / "majority", model, *words)
    keyword, majority, _ = report["systems"]
    assert [system["name"] for system in report["systems"]] == ["keyword", "majority", "model"]
    assert len(report["comparisons"]) == 3 and report["data"]["n_texts"] == 66
    assert report["intervals"]["seed"] == 5 and keyword["slices"]["also in train"]["n"] == 66
    robustness = keyword["robustness"]  # capitals do not matter to counts of words
    assert list(robustness) == ["as it is", *PERTURBATIONS, "all of them"]
    assert robustness["as it is"] == robustness["capitals"] == keyword["metrics"]["f1"]["value"]
    assert robustness["capitals"] > robustness["elongated"] > robustness["all of them"]
    alone = [read_json(tmp_path / kind / "report.json") for kind in ("majority", "keyword")]
    own, other = (report["systems"][0]["confusion"] for report in alone)
    assert own == majority["confusion"] and [row[::-1] for row in other[::-1]] == keyword["confusion"]
    tables, logged = (tmp_path / "report" / "report.md").read_text().split("\n\n")[2:5], caplog.text
    assert "| keyword |" in tables[0] and all(table.strip() in logged for table in tables)
    assert all(compared["sentence"] in logged for compared in report["comparisons"])
    assert f"{model} was trained on {VALID}: it is worse" in caplog.text
    assert [system.get("engine", {}).get("backend") for system in report["systems"]] == [None, None, "torch"]
    assert report["environment"] == describe_environment("cpu")


@pytest.mark.parametrize("options, reason", [
    ("--model c --compare d", "--compare"), ("--compare a", "--compare takes two"),
    ("--compare a b --model_revision main", "--compare"), (f"--model a --output {__file__}", "is a file: name"),
])  # fmt: skip
def test_options_that_cannot_be_end_with_status_2(options, reason):
    text = run_here("scripts/eval.py", "--data", "a", "--output", "b", *options.split(), status=2)
    assert reason in text.splitlines()[-1]


def test_a_calibrated_model_is_a_new_folder_that_errs_as_before_and_is_less_sure(model, tmp_path):
    (model / "predictions_valid.csv").touch()  # of its run, which no copy of a model has
    before, output = contents(model), tmp_path / "calibrated"
    for target, data, message in ((output, tmp_path / "nowhere.tsv", "does not exist"), (model, VALID, "is not empty")):
        text = calibrate(model, target, data=data, status=1)
        assert text.startswith("error: ") and message in text
        assert contents(model) == before and (not output.exists() or not any(output.iterdir()))
    calibrate(model, output)
    assert contents(model) == before and contents(output).keys() == before.keys() - {"predictions_valid.csv"}
    one, other = evaluate(tmp_path / "report", "--compare", model, output)["systems"]
    assert other["calibration"]["expected_calibration_error"] < one["calibration"]["expected_calibration_error"]
    assert one["confusion"] == other["confusion"]
    assert read_temperature(output) > 1


def read_temperature(folder) -> float:
    return read_json(folder / "config.json")["smsa_temperature"]


def test_calibrate_can_put_the_normaliser_where_every_client_finds_it_and_fits_with_it(model, tmp_path):
    before, output = AutoTokenizer.from_pretrained(model, truncation_side="left"), tmp_path / "normalised"
    before.save_pretrained(model)
    plain, elongated = tmp_path / "plain.tsv", tmp_path / "elongated.tsv"  # no name of a label has a k
    plain.write_text(re.sub("k+", "k", VALID.read_text()))
    elongated.write_text(plain.read_text().replace("k", "kkkk"))
    calibrate(model, tmp_path / "of plain", data=plain)
    calibrate(model, output, "--normalise_elongated", data=elongated)
    assert read_temperature(output) == pytest.approx(read_temperature(tmp_path / "of plain"), rel=1e-6)
    after = AutoTokenizer.from_pretrained(output)
    for name in ("model_max_length", "truncation_side", "model_input_names", "special_tokens_map", "vocab"):
        assert getattr(after, name) == getattr(before, name), name  # all else stays
    # a name that transformers 4 knows, too, and that survives another save
    assert read_json(output / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    after.save_pretrained(tmp_path / "copy")
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").tokenize("enaaaak") == ["enak"]
    assert read_json(output / "config.json")["smsa_normalised"]  # for the card
    classify = pipeline("text-classification", model=str(output))
    assert classify("muraaaah") == classify("murah")
    assert load(output)("muraaaah")["score"] == pytest.approx(classify("murah")[0]["score"], abs=1e-6)


def test_the_card_and_the_examples_of_a_calibrated_model_are_its_own(tmp_path):
    output = tmp_path / "mine"
    calibrate("mini-sentiment", output)
    card, classifier = (output / "README.md").read_text(), load(output)
    before_scores = read_json(output / "run.json")["temperature"]
    assert f"temperature of {read_temperature(output) / before_scores:.3f}" in card
    for example in read_json(output / "metrics.json")["examples"]:
        assert example["score"] == pytest.approx(classifier(example["text"])["score"], abs=1e-6)
        assert f"{example['score']:.3f}" in card


def test_the_report_of_a_run_has_a_picture_of_its_history(tmp_path):
    evaluate(tmp_path / "report", "--model", "mini-sentiment")
    picture = Image.open(tmp_path / "report" / "history.png").convert("RGB")
    colors = {color for _, color in picture.getcolors(10**6)}
    assert picture.width > 1000 and {(255, 255, 255), (0x00, 0x72, 0xB2)} <= colors  # blue is of train
    assert "![history](history.png)" in (tmp_path / "report" / "report.md").read_text()
