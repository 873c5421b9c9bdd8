"""Exports: what other runtimes load answers as the model does, or does not appear."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_ROWS, make_tokenizer
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    RobertaConfig,
    XLMRobertaConfig,
    pipeline,
)

from scripts import export as script
from smsa.data.labels import LABELS, label_maps
from smsa.evaluation.calibration import store_normaliser
from smsa.sharing import export
from smsa.sharing.export import (
    ONNX,
    ONNX_INT8,
    OPENVINO,
    describe,
    export_model,
    find_losses,
)

onnxruntime = pytest.importorskip("onnxruntime", reason="needs smsa[onnx]")
openvino = pytest.importorskip("openvino", reason="needs smsa[openvino]")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPES = {
    "BERT": BertConfig(**SIZES, vocab_size=60, pad_token_id=0),
    "ALBERT": AlbertConfig(**SIZES, vocab_size=60, embedding_size=16, pad_token_id=0),
    "RoBERTa": RobertaConfig(**SIZES, vocab_size=60, max_position_embeddings=130, type_vocab_size=1, pad_token_id=0),
    "XLM-R": XLMRobertaConfig(**SIZES, vocab_size=60, max_position_embeddings=130, type_vocab_size=1, pad_token_id=0),
}


def save_model(shape: str, folder):
    """A random model of a shape, with weights large enough that labels differ, and the tiny tokenizer."""
    torch.manual_seed(0)
    SHAPES[shape].update(label_maps(LABELS) | {"initializer_range": 0.4})
    AutoModelForSequenceClassification.from_config(SHAPES[shape]).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=SHAPES, scope="module")
def folder(request, tmp_path_factory):
    return save_model(request.param, tmp_path_factory.mktemp("shape") / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_model("BERT", tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture
def data(tmp_path):
    rows = [(f"{text}{' enak' * (i % 9)}", label) for i, (text, label) in enumerate(TINY_ROWS * 5)]
    path = tmp_path / "valid.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return path


def answers(folder, load) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the original and of an export, for batches of shapes that the exporter did not see."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    ours, theirs = [], []
    for texts in (
        ["enak"],
        ["kotor dan mahal sekali", "pergi", "ramah , puas dan enak !"],
        ["a b c d e f g h i j k"] * 5,
    ):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            ours.append(model.eval()(**inputs).logits.numpy())
        theirs.append(load({name: tensor.numpy() for name, tensor in inputs.items()}))
    return np.concatenate(ours), np.concatenate(theirs)


def test_every_shape_goes_to_onnx_and_answers_as_it_does(folder, data, tmp_path):
    record = export_model(str(folder), tmp_path / "out", "onnx", int8=True, data=data)
    assert record == json.loads((tmp_path / "out" / "export.json").read_text())
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"config.json", "tokenizer.json", "tokenizer_config.json", ONNX, ONNX_INT8, "export.json"}
    session = onnxruntime.InferenceSession(tmp_path / "out" / ONNX)
    ours, theirs = answers(folder, lambda inputs: session.run(None, inputs)[0])
    assert ours.std() > 0.1 and np.abs(ours - theirs).max() < 1e-4
    assert record[ONNX]["largest_difference"] < 1e-4 and record[ONNX]["agreement"] == 1
    assert record[ONNX]["f1"] == record["original"]["f1"] and record[ONNX]["f1_loss"] == 0
    assert 0 < record[ONNX_INT8]["largest_difference"] < 0.5
    assert record[ONNX_INT8]["f1_loss"] == record["original"]["f1"] - record[ONNX_INT8]["f1"]
    assert record[ONNX_INT8]["bytes"] == (tmp_path / "out" / ONNX_INT8).stat().st_size < record[ONNX]["bytes"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / ONNX_INT8)
    ours, theirs = answers(folder, lambda inputs: session.run(None, inputs)[0])
    assert 0 < np.abs(ours - theirs).max() < 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label2id"] == {
        "positive": 0,
        "neutral": 1,
        "negative": 2,
    }


def test_a_model_that_one_file_cannot_hold_is_written_to_two(bert, data, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_LARGEST_FILE", 0)
    record = export_model(str(bert), tmp_path / "out", "onnx", int8=True, data=data)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out" / "onnx").iterdir()}
    assert sizes.keys() == {"model.onnx", "model.onnx.data", "model_quantized.onnx"}
    assert record[ONNX]["bytes"] == sizes["model.onnx"] + sizes["model.onnx.data"]
    assert record[ONNX]["largest_difference"] < 1e-4 and record[ONNX_INT8]["largest_difference"] < 0.5


@pytest.mark.parametrize("int8", [False, True])
def test_every_shape_goes_to_openvino_and_answers_as_it_does(folder, data, tmp_path, int8):
    record = export_model(str(folder), tmp_path / "out", "openvino", int8, data)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "openvino_model.xml",
        "openvino_model.bin",
        "export.json",
    }
    compiled = openvino.Core().compile_model(tmp_path / "out" / OPENVINO, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours, theirs = answers(folder, lambda inputs: compiled(inputs)[0])
    assert ours.std() > 0.1
    assert np.abs(ours - theirs).max() < 1e-4 if not int8 else 0 < np.abs(ours - theirs).max() < 2
    assert (record[OPENVINO]["largest_difference"] < 1e-4) != int8
    names = ("openvino_model.xml", "openvino_model.bin")
    assert record[OPENVINO]["bytes"] == sum((tmp_path / "out" / name).stat().st_size for name in names)


def test_the_comparison_is_of_the_files_texts(bert, data, tmp_path):
    """Against the model itself, text by text."""
    record = export_model(str(bert), tmp_path / "out", "openvino", data=data)
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModelForSequenceClassification.from_pretrained(bert)
    lines = [line.split("\t") for line in data.read_text().splitlines()]
    with torch.no_grad():
        given = [model.eval()(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text, _ in lines]
    right = [LABELS[label_id] == label for label_id, (_, label) in zip(given, lines, strict=True)]
    f1 = []
    for i, label in enumerate(LABELS):
        hits = sum(r for r, (_, gold) in zip(right, lines, strict=True) if gold == label)
        f1.append(2 * hits / (sum(gold == label for _, gold in lines) + given.count(i)))
    assert record["original"]["f1"] == pytest.approx(sum(f1) / 3)
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    assert record["data"] == {"file": "valid.tsv", "sha256": sha256, "n_texts": len(lines)}
    assert record["original"]["bytes"] == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_a_file_of_other_columns_and_names_is_compared_by(bert, data, tmp_path):
    expected = export_model(str(bert), tmp_path / "a", "openvino", data=data)["original"]["f1"]
    names = dict(zip(LABELS, ("baik", "biasa", "buruk"), strict=True))
    rows = [line.split("\t") for line in data.read_text().splitlines()]
    lines = [json.dumps({"ulasan": text, "nada": names[label]}) for text, label in rows]
    (tmp_path / "valid.jsonl").write_text("\n".join(lines))
    options = {"data": tmp_path / "valid.jsonl", "text_column": "ulasan", "label_column": "nada"}
    label_map = ",".join(f"{label}={name}" for label, name in names.items())
    record = export_model(str(bert), tmp_path / "b", "openvino", **options, label_map=label_map)
    assert record["original"]["f1"] == expected
    with pytest.raises(ValueError, match="the label is not one of positive, neutral, negative; found 'baik'"):
        export_model(str(bert), tmp_path / "c", "openvino", **options)


def test_an_export_in_fp32_that_differs_does_not_appear(bert, data, tmp_path, monkeypatch):
    load = export._load_onnx
    monkeypatch.setattr(export, "_load_onnx", lambda path: lambda *arrays: load(path)(*arrays) * 1.01)
    with pytest.raises(
        ValueError, match=r"onnx/model.onnx differs from the model by 0.0\d* in a probability; 0.0001 is"
    ):
        export_model(str(bert), tmp_path / "out", "onnx", data=data)
    assert not (tmp_path / "out").exists()


def test_a_loss_by_int8_is_said_and_has_its_exit_status(bert, data, tmp_path, monkeypatch, capsys):
    """An int8 file that gives all texts one label, by way of a broken quantisation."""
    load = export._load_onnx
    broken = lambda path: lambda *arrays: load(path)(*arrays) * ("quantized" not in path.name)  # noqa: E731
    monkeypatch.setattr(export, "_load_onnx", broken)
    classify = pipeline("text-classification", model=str(bert))
    texts = [text for text, _ in TINY_ROWS]
    labels = [answer["label"] for answer in classify(texts)]  # so that any other answer loses
    assert len(set(labels)) > 1
    data.write_text("".join(f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)))
    with pytest.raises(SystemExit) as stopped:
        script.main(str(bert), "onnx", True, str(tmp_path / "out"), data=data)
    assert stopped.value.code == 3
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    losses = find_losses(record)
    assert losses.keys() == {ONNX_INT8} and losses[ONNX_INT8] == record[ONNX_INT8]["f1_loss"] > 0.01
    # equal logits for every label give the first one
    assert record[ONNX_INT8]["agreement"] == labels.count(LABELS[0]) / len(labels)
    said = capsys.readouterr().out
    assert f"warning: {ONNX_INT8} loses {100 * losses[ONNX_INT8]:.1f} points of macro F1" in said
    assert describe(record) in said


def test_a_point_of_macro_f1_is_what_int8_may_lose():
    record = {"target": "onnx", "original": {"f1": 0.9}, ONNX: {"f1_loss": 0.0099}, ONNX_INT8: {"f1_loss": 0.0101}}
    assert find_losses(record) == {ONNX_INT8: 0.0101}


def test_an_export_that_answers_nan_does_not_appear(bert, data, tmp_path, monkeypatch):
    load = export._load_openvino
    monkeypatch.setattr(export, "_load_openvino", lambda path: lambda *arrays: load(path)(*arrays) * float("nan"))
    with pytest.raises(ValueError, match="differs from the model by nan in a probability"):
        export_model(str(bert), tmp_path / "out", "openvino", data=data)
    assert not (tmp_path / "out").exists()


def test_a_normaliser_goes_along(bert, data, tmp_path):
    model = tmp_path / "normalised"
    subprocess.run(["cp", "-r", bert, model], check=True)
    store_normaliser(model)
    export_model(str(model), tmp_path / "out", "onnx", data=data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("enaaaak") == ["enak"]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # which transformers.js knows


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(bert, data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--to 'tflite' is not one of onnx, openvino"):
        export_model(str(bert), tmp_path / "out", "tflite", data=data)
    with pytest.raises(OSError, match="No model .*nowhere"):
        export_model(str(tmp_path / "nowhere"), tmp_path / "out", "onnx", data=data)
    data.write_text("enak\tpositif\n")
    with pytest.raises(ValueError, match="valid.tsv:1: the label is not one of .* found 'positif'"):
        export_model(str(bert), tmp_path / "out", "onnx", data=data)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty .mine.txt.: choose another --output"):
        export_model(str(bert), tmp_path / "out", "onnx", data=data)
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"openvino is not installed: pip install 'smsa\[openvino\]'"):
        export_model(str(bert), tmp_path / "other", "openvino", data=data)


@pytest.mark.slow
def test_the_script_says_what_it_did(bert, data):
    command = [sys.executable, "scripts/export.py", str(bert), "--to", "openvino", "--int8", "--data", str(data)]
    environment = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    output, done = f"{bert}-openvino-int8", []
    for _ in range(2):
        done.append(subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True))
    assert done[0].returncode == 0
    said = ("Model: ", "Precision: ", "Scoring on ", "data: ")  # no warning of a library's
    assert all(line.startswith(said) for line in done[0].stderr.splitlines()), done[0].stderr
    assert f"The export is in {output}" in done[0].stdout and OPENVINO in done[0].stdout
    assert done[1].returncode == 1 and done[1].stderr.startswith(f"error: {output} is not empty")
