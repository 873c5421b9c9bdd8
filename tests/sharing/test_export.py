"""Exports: what other runtimes load predicts as the model does, or does not appear."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from conftest import SHAPE, TINY_ROWS, make_tokenizer, read_json
from processes import run_here
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from smsa.data.labels import LABELS, label_maps
from smsa.data.normaliser import add_normaliser
from smsa.errors import UserError
from smsa.files import hash_file
from smsa.inference.engine import compile_openvino
from smsa.models.loading import load_classifier
from smsa.sharing import export
from smsa.sharing.export import ONNX, ONNX_INT8, OPENVINO, describe, export_model

onnx = pytest.importorskip("onnx", reason="needs pip install -e '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")
openvino = pytest.importorskip("openvino", reason="needs pip install -e '.[openvino]'")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT with weights so large that labels differ, whose tokenizer reads elongated letters once."""
    folder = tmp_path_factory.mktemp("bert") / "model"
    torch.manual_seed(0)
    config = BertConfig(**SHAPE, vocab_size=60, initializer_range=0.4, **label_maps(LABELS))
    BertForSequenceClassification(config).save_pretrained(folder)
    add_normaliser(make_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, counts = tmp_path_factory.mktemp("data") / "valid.tsv", enumerate(TINY_ROWS * 5)
    path.write_text("".join(f"{text}{' enak' * (i % 9)}\t{label}\n" for i, (text, label) in counts))
    return path


@pytest.fixture(scope="module")
def exported(bert, data, tmp_path_factory):
    """A function that exports the model once to each target; returns the folder and what was recorded."""

    @cache
    def export_once(target, int8):
        out = tmp_path_factory.mktemp("out") / target
        return out, export_model(str(bert), out, target, int8, data)

    return export_once


@pytest.mark.parametrize("target, int8, files", [
    ("onnx", True, {ONNX: 1e-4, ONNX_INT8: 2}),
    ("openvino", False, {OPENVINO: 1e-4}),
    ("openvino", True, {OPENVINO: 2}),
])  # fmt: skip
def test_an_export_computes_as_the_model_in_batches_of_any_shape(bert, exported, target, int8, files):
    out, record = exported(target, int8)
    assert record == read_json(out / "export.json")
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModelForSequenceClassification.from_pretrained(bert)
    for name, largest in files.items():
        for texts in (["enak"], ["kotor dan mahal", "pergi", "ramah , puas dan enak !"], ["a b c d e f g h i j k"] * 5):
            batch = tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                logits = model.eval()(**batch).logits.numpy()
            inputs = {part: batch[part].numpy() for part in ("input_ids", "attention_mask")}
            if target == "onnx":
                found = onnxruntime.InferenceSession(out / name).run(None, inputs)[0]
            else:
                found = compile_openvino(out / name, {"INFERENCE_PRECISION_HINT": "f32"})(**inputs).numpy()
            assert logits.std() > 0.1 and np.abs(found - logits).max() < largest
        measured, is_int8 = record[name], largest == 2
        assert 0 < measured["largest_difference"] < (0.5 if is_int8 else 1e-4)
        assert measured["f1_loss"] == record["original"]["f1"] - measured["f1"]
        assert is_int8 or (measured["agreement"], measured["f1_loss"]) == (1, 0)
    listed = {path for path in out.rglob("*") if path.suffix in (".onnx", ".xml", ".bin")}
    assert sum(record[name]["bytes"] for name in files) == sum(path.stat().st_size for path in listed)
    others = {path.name for path in out.rglob("*") if path.is_file() and path not in listed}
    assert others == {"config.json", "tokenizer.json", "tokenizer_config.json", "export.json"}
    assert AutoTokenizer.from_pretrained(out).tokenize("enaaaak") == ["enak"]
    tokenizer_class = read_json(out / "tokenizer_config.json")["tokenizer_class"]
    assert tokenizer_class == "PreTrainedTokenizerFast"  # which transformers.js knows


def test_sums_of_onnx_in_int8_are_exact_also_on_cpus_without_vnni(exported):
    """No sum of two products may exceed 16 bits, in which those CPUs add them."""
    graph = onnx.load(exported("onnx", True)[0] / ONNX_INT8).graph
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger" and node.input[1] in arrays]
    weights = [arrays[node.input[1]] for node in products]
    assert len(weights) >= 7 and all(weight.dtype == np.int8 for weight in weights)
    assert 2 * 255 * max(np.abs(weight.astype(int)).max() for weight in weights) <= 32_767


def test_the_comparison_is_of_the_files_texts_read_as_in_evaluation(bert, data, tmp_path):
    """Against the model itself, text by text."""
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModelForSequenceClassification.from_pretrained(bert)
    rows = [dict(zip(("ulasan", "nada"), line.split("\t"), strict=True)) for line in data.read_text().splitlines()]
    bad = [{"ulasan": "", "nada": "positive"}, {"ulasan": "enak"}]
    path, out = tmp_path / "valid.jsonl", tmp_path / "out"
    path.write_text("\n".join(map(json.dumps, rows + bad)))
    options = {"label_column": "nada", "label_map": "negative=drop", "rejects": []}
    record = export_model(str(bert), out, "openvino", data=path, **options)
    kept = [row for row in rows if row["nada"] != "negative"]
    with torch.no_grad():
        found = [model.eval()(**tokenizer(row["ulasan"], return_tensors="pt")).logits.argmax().item() for row in kept]
    gold = [LABELS.index(row["nada"]) for row in kept]
    assert record["original"]["f1"] == pytest.approx(f1_score(gold, found, average="macro", labels=[0, 1]))
    assert record["data"] == {"file": "valid.jsonl", "sha256": hash_file(path), "n_texts": len(kept)}
    assert len((out / "rejects.jsonl").read_text().splitlines()) == len(bad)
    with pytest.raises(UserError, match="out is an export, for other runtimes"):
        load_classifier(out)


def change_logits(monkeypatch, factor):
    """Let a file that was exported to OpenVINO answer other logits."""

    def compile_changed(*given):
        forward = compile_openvino(*given)
        return lambda *arrays: factor * forward(*arrays)

    monkeypatch.setattr(export, "compile_openvino", compile_changed)


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_an_export_in_fp32_that_differs_is_not_written(bert, data, tmp_path, monkeypatch, factor):
    change_logits(monkeypatch, factor)
    with pytest.raises(UserError, match=r"differs from the model by (0\.0\d+|nan) in a probability; 0.0001 is"):
        export_model(str(bert), tmp_path / "out", "openvino", data=data)
    assert not list((tmp_path / "out").iterdir())


def test_a_loss_by_int8_is_a_warning_and_has_its_exit_status(bert, data, tmp_path, monkeypatch):
    """An int8 file that predicts one label for all texts, as after a broken quantisation."""
    change_logits(monkeypatch, 0)
    words = ["scripts/export.py", bert, "--to", "openvino", "--int8", "--data", data, "--output"]
    printed = run_here(*words, tmp_path / "out", status=3)
    record = read_json(tmp_path / "out" / "export.json")
    loss = record[OPENVINO]["f1_loss"]
    assert loss > 0.01 and f"warning: {OPENVINO} loses {100 * loss:.1f} points of macro F1" in printed
    assert f"{describe(record)}\nThe export is in {tmp_path / 'out'}" in printed
    monkeypatch.setattr(export, "LARGEST_LOSS", loss)  # what it may lose
    run_here(*words, tmp_path / "other")


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(bert, data, tmp_path, monkeypatch):
    bad, out = tmp_path / "bad.tsv", tmp_path / "out"
    bad.write_text("enak\tbaik\n")
    with pytest.raises(UserError, match="bad.tsv:1: .*'baik'"):
        export_model(str(bert), out, "onnx", data=bad)
    assert not out.exists()
    with pytest.raises(UserError, match="is not empty .bad.tsv.: choose another --output"):
        export_model(str(bert), tmp_path, "onnx", data=data)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install -e '.\[openvino\]'"):
        export_model(str(bert), out, "openvino", data=data)
