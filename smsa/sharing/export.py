"""A fine-tuned model -> a folder for ONNX Runtime, transformers.js or OpenVINO, compared with the original first.

optimum, the usual exporter, does not support transformers 5 yet (huggingface/optimum-onnx issue 114); torch's own
exporter and OpenVINO's frontend do the work here.
"""

import importlib.util
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy.special import softmax
from transformers import PreTrainedModel

from smsa.data.datasets import find_smsa, write_rejects
from smsa.errors import UserError
from smsa.evaluation.report import LabelledFile
from smsa.evaluation.statistics import score_present
from smsa.evaluation.systems import name_labels
from smsa.files import hash_file, publish, require_empty, staged, write_json
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.engine import Forward, compile_openvino, compress_weights, to_openvino
from smsa.models.loading import load_classifier, save_tokenizer
from smsa.runtime import describe_versions

EXPORT_RECORD = "export.json"
TARGETS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}  # and the packages that each needs
# Where transformers.js and optimum look for the files.
ONNX, ONNX_INT8, OPENVINO = "onnx/model.onnx", "onnx/model_quantized.onnx", "openvino_model.xml"
LARGEST_DIFFERENCE = 1e-4  # of a probability, in fp32
LARGEST_LOSS = 0.01  # of macro F1, in int8
_INPUTS = ("input_ids", "attention_mask")


def export_model(
    model_name_or_path: str,
    output_dir: str | Path,
    target: str,
    int8: bool = False,
    data: str | Path | None = None,
    revision: str | None = None,
    **reading: object,
) -> dict:
    """Export a model and compare it with the original on labelled texts; a file in fp32 that differs is not written.

    Args:
        model_name_or_path, revision: as in `load_classifier`.
        output_dir: new or empty.
        target: `onnx` or `openvino`.
        int8: store weights in 8 bits. For ONNX, this includes the embeddings, in a second file beside the fp32 one.
        data: labelled file to compare on; None for SmSA's valid, as `find_smsa` finds it.
        reading: options of `LabelledFile.read`; label_map also as in `name_labels`.

    Returns:
        The content of export.json: `target`, `data` (`file`, `sha256`, `n_texts`), `versions`, `original`, and each
        model file by its name. The last two have `bytes`, `rows_per_second` (of the model only) and `f1` (macro); files
        also have `largest_difference` (of a probability), `agreement` (share of equal labels) and `f1_loss`.

    Raises:
        UserError: if a library is not installed, the data have other labels, or a file in fp32 differs from the
            original; also as `load_classifier`.
    """
    missing = [library for library in TARGETS[target] if importlib.util.find_spec(library) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is not installed: pip install -e '.[{target}]'.")
    output_dir = Path(output_dir)
    require_empty(output_dir, "choose another --output")
    model, tokenizer = load_classifier(model_name_or_path, revision)
    classifier = SentimentClassifier(model, tokenizer, device="cpu", precision="no", backend="torch")
    data = Path(data or find_smsa()["valid"])
    labels = name_labels(str(model_name_or_path), classifier.labels, reading.get("label_map"))
    labelled = LabelledFile.read(data, labels, **reading)
    token_ids, _, _, index = classifier.encode(pa.array(labelled.texts))

    def measure(n_bytes: int) -> tuple[dict, np.ndarray]:
        classifier.engine.run(token_ids[:1])  # the first call is slower
        started = time.perf_counter()
        probabilities = softmax(classifier.engine.run(token_ids).astype(float), axis=-1)[index]
        seconds = time.perf_counter() - started
        f1 = score_present(labelled.count_confusion(probabilities.argmax(-1)))["f1"].item()
        return {"bytes": n_bytes, "rows_per_second": len(index) / seconds, "f1": f1}, probabilities

    original, expected = measure(sum(weights.nbytes for weights in model.state_dict().values()))
    described = {"file": data.name, "sha256": hash_file(data), "n_texts": len(index)}
    record = {"target": target, "data": described, "original": original}
    write = {"onnx": _write_onnx, "openvino": _write_openvino}[target]
    output_dir.mkdir(parents=True, exist_ok=True)
    with staged(output_dir) as staging:
        model.config.save_pretrained(staging)
        save_tokenizer(tokenizer, staging)
        try:
            forwards = write(model, staging, int8)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{type(model).__name__} cannot be exported to {target}: {reason}") from error
        for name, forward in forwards.items():
            classifier.engine.forward = forward  # `measure` runs it
            files = (staging / name).parent.glob(f"{Path(name).stem}.*")  # weights may have a file of their own
            measured, probabilities = measure(sum(path.stat().st_size for path in files))
            measured["largest_difference"] = float(np.abs(probabilities - expected).max())
            measured["agreement"] = float((probabilities.argmax(-1) == expected.argmax(-1)).mean())
            measured["f1_loss"] = original["f1"] - measured["f1"]
            record[name] = measured
            if (name == ONNX or not int8) and not measured["largest_difference"] <= LARGEST_DIFFERENCE:  # nan, too
                raise UserError(
                    f"{name} differs from the model by {measured['largest_difference']:.2g} in a probability; "
                    f"{LARGEST_DIFFERENCE:g} is accepted. Nothing was written."
                )
        record["versions"] = describe_versions(("smsa", "torch", "transformers", *TARGETS[target]))
        write_rejects(reading.get("rejects"), staging)
        write_json(record, staging / EXPORT_RECORD)
        publish(staging, output_dir, last=EXPORT_RECORD)
    return record


def describe(record: dict) -> str:
    """Return the comparison as aligned text."""
    files = {name: found for name, found in record.items() if "f1" in found}
    table = pd.DataFrame.from_dict(files, orient="index").to_string(na_rep="", float_format="{:.4g}".format)
    return f"{table}\non {record['data']['n_texts']:,} texts of {record['data']['file']}"


def _write_onnx(model: PreTrainedModel, folder: Path, int8: bool) -> dict[str, Forward]:
    """Write an ONNX file in fp32, and one in int8 if asked; return the forward function of each file, by its name."""
    import onnxruntime

    path = folder / ONNX
    path.parent.mkdir()
    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in _INPUTS}
    axes = dict.fromkeys(_INPUTS, {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), kwargs=example, input_names=list(_INPUTS), output_names=["logits"],
            dynamo=True, dynamic_shapes=axes, verbose=False,
        )  # fmt: skip
        del program.model.graph.outputs[1:]  # encoder-decoder models return hidden states, too
        program.save(path)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as name:
            simplified = Path(name) / "model.onnx"
            quant_pre_process(path, simplified, skip_symbolic_shape=True, save_as_external_data=True)
            # Weights in 7 bits: on a CPU without VNNI, ONNX Runtime multiplies activations (0 to 255) with weights by
            # vpmaddubsw, which adds two products in 16 bits. In 8 bits they reach 2 * 255 * 127 = 64,770 and are cut
            # off at 32,767; in 7 bits 2 * 255 * 64 = 32,640 at the most. Unsigned weights are exact, too, at half the
            # speed.
            quantize_dynamic(
                simplified, folder / ONNX_INT8, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
            )

    def load(name: str) -> Forward:
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        return lambda *arrays: torch.from_numpy(session.run(["logits"], dict(zip(_INPUTS, arrays, strict=True)))[0])

    return {name: load(name) for name in ([ONNX, ONNX_INT8] if int8 else [ONNX])}


def _write_openvino(model: PreTrainedModel, folder: Path, int8: bool) -> dict[str, Forward]:
    """Write openvino_model.xml and .bin; return their forward function, by the name of the .xml."""
    import openvino

    graph = to_openvino(model)
    if int8:
        compress_weights(graph)
    openvino.save_model(graph, folder / OPENVINO, compress_to_fp16=False)
    # a file that is mapped into memory cannot be moved on Windows
    options = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_MMAP": False}
    return {OPENVINO: compile_openvino(folder / OPENVINO, options)}
