"""Temperature and normaliser in a model folder: every client applies them."""

import hashlib
import json

import pytest
import torch
from conftest import SAMPLE_DIR, SHAPE, make_model, read_json, save_tiny
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from smsa.data.labels import LABELS, label_maps
from smsa.errors import UserError
from smsa.evaluation import calibration
from smsa.models.loading import BUNDLED

VALID = SAMPLE_DIR / "valid_preprocess.tsv"


def test_the_weights_keep_their_precision_and_all_others_their_bytes(tmp_path):
    model, folder = make_model(), save_tiny(tmp_path / "model")
    model.classifier.bias.data = torch.tensor([0.3, -0.1, 0.05])
    model.half().save_pretrained(folder)
    before = load_file(folder / "model.safetensors")
    calibration.store_temperature(folder, 2.0)  # exact in fp16
    after = load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert all(tensor.dtype == torch.float16 for tensor in after.values())
    assert torch.equal(after["classifier.weight"] * 2, before["classifier.weight"])
    calibration.store_temperature(folder, 1.5)  # a second calibration starts from the first
    before = load_file(folder / "model.safetensors")["classifier.bias"]
    calibration.store_temperature(folder, 0.5, torch.tensor([0.0, -1.0, 0.0]))  # the shift is not divided
    after = load_file(folder / "model.safetensors")["classifier.bias"]
    assert torch.equal(after, 2 * before - torch.tensor([0.0, 1.0, 0.0]).half())
    assert read_json(folder / "config.json")["smsa_temperature"] == 1.5


def test_the_last_layer_is_found_in_a_head_of_several(tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("roberta", **SHAPE, vocab_size=60, **label_maps(LABELS))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.classifier.out_proj.bias.data = torch.tensor([1.0, -2.0, 3.0])
    calibration.store_temperature(save_tiny(tmp_path, model), 4.0)
    changed, input_ids = AutoModelForSequenceClassification.from_pretrained(tmp_path), torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        assert changed(input_ids).logits == pytest.approx(model(input_ids).logits / 4, abs=1e-6)


def test_only_a_folder_of_a_model_can_be_calibrated_and_not_on_its_train_file(tmp_path):
    folder = save_tiny(tmp_path / "model")
    assert str(calibration.find_model_folder("mini-sentiment", VALID)) == BUNDLED["mini-sentiment"]
    for name in (tmp_path, "me/on-the-hub"):
        with pytest.raises(UserError, match="only a model folder with a model.safetensors can be calibrated"):
            calibration.find_model_folder(str(name), VALID)
    for of_another_program in ('{"data": {"name": "a"}}', '{"data": [1]}', "[]"):
        (folder / "run.json").write_text(of_another_program)
        assert calibration.find_model_folder(str(folder), VALID) == folder
    (folder / "run.json").write_text('{"data":')
    with pytest.raises(UserError, match="run.json is damaged"):
        calibration.find_model_folder(str(folder), VALID)
    trained_on = {"train": {"sha256": hashlib.sha256(VALID.read_bytes()).hexdigest()}}
    (folder / "run.json").write_text(json.dumps({"data": trained_on}))
    (folder / "predictions_valid.csv").touch()
    with pytest.raises(UserError, match="too sure: calibrate on valid --data .*/predictions_valid.csv --label_col"):
        calibration.find_model_folder(str(folder), VALID)
