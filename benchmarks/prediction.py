"""Label the texts of one CSV as people do today and as smsa does, side by side in one run on one machine.

python benchmarks/prediction.py --output benchmarks/results/prediction.md
python benchmarks/prediction.py --shape small --rows 2000
python benchmarks/prediction.py --shape base --rows 200000 --repeats 1   # on a machine with a GPU

Each contender reads a CSV, labels its texts and writes a CSV with a label and three probabilities.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import models
import numpy as np
import pandas as pd
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from smsa import SentimentClassifier, find_smsa, load_splits, score_files
from smsa.data.labels import LABELS

BATCH_SIZE = 32  # of the peers, as in most tutorials
COLUMNS = [f"p_{label}" for label in LABELS]
Predict = Callable[[list[str]], np.ndarray]  # texts -> probabilities of shape (n_texts, n_labels)
Run = Callable[[Path, Path], None]  # CSV in, CSV out


def through_pandas(predict: Predict) -> Run:
    """Return a run that reads and writes by pandas, as a user would."""

    def run(source: Path, target: Path) -> None:
        texts = pd.read_csv(source)["text"].tolist()
        probabilities = predict(texts)
        table = pd.DataFrame({"text": texts, "label": np.array(LABELS)[probabilities.argmax(-1)]})
        table[COLUMNS] = probabilities
        table.to_csv(target, index=False)

    return run


def make_pipeline(folder: Path, precision: str, device: str) -> Run:
    classify = pipeline("text-classification", str(folder), device=device, dtype=models.DTYPES[precision], top_k=None)

    def predict(texts: list[str]) -> np.ndarray:
        rows = ({entry["label"]: entry["score"] for entry in answer}
                for answer in classify(texts, batch_size=BATCH_SIZE, truncation=True))  # fmt: skip
        return np.array([[row[label] for label in LABELS] for row in rows])

    return through_pandas(predict)


def make_sorted(folder: Path, load: Callable, precision: str, device: str) -> Run:
    """Return a run with batches of texts of similar length, each padded to its longest: what a careful user writes."""
    forward = load(folder, precision, device)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def predict(texts: list[str]) -> np.ndarray:
        token_ids = tokenizer(texts, truncation=True)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(token_ids[i]))
        logits = np.empty((len(texts), len(LABELS)))
        for start in range(0, len(texts), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            inputs = tokenizer.pad({"input_ids": [token_ids[i] for i in batch]}, return_tensors="np")
            logits[batch] = forward({name: inputs[name] for name in ("input_ids", "attention_mask")})
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    return through_pandas(predict)


def torch_forward(folder: Path, precision: str, device: str):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=models.DTYPES[precision]).to(device).eval()

    @torch.inference_mode()
    def forward(inputs: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        return model(**tensors).logits.float().cpu().numpy()

    return forward


def export(folder: Path) -> Path:
    """Return the ONNX file of the model, which ONNX Runtime and OpenVINO read; written the first time."""
    path, names = folder / "model.onnx", ["input_ids", "attention_mask"]
    if not path.exists():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
        axes = {name: {0: "batch", 1: "tokens"} for name in names}
        torch.onnx.export(model, example, path, input_names=names, output_names=["logits"], dynamic_axes=axes,
                          dynamo=False)  # fmt: skip
    return path


def openvino_forward(folder: Path, precision: str, device: str):
    import openvino

    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(export(folder), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda inputs: compiled(inputs)[0]


def onnx_forward(folder: Path, precision: str, device: str):
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = export(folder)
    if precision == "int8":
        quantize_dynamic(path, folder / "int8.onnx", weight_type=QuantType.QInt8)
        path = folder / "int8.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def make_smsa(folder: Path, precision: str, device: str, backend: str = "auto") -> Run:
    asked = {"fp32": "no"}.get(precision, precision)
    classifier = SentimentClassifier.from_pretrained(str(folder), device=device, precision=asked, backend=backend)
    return lambda source, target: score_files(classifier, [source], target)


def list_contenders(folder: Path, device: str) -> dict[str, tuple[str, Callable[[], Run]]]:
    """Return for each contender its precision, and what loads it."""
    contenders: dict[str, tuple[str, Callable[[], Run]]] = {}
    for kind in ("fp32", "bf16"):
        contenders |= {
            f"pipeline, {kind}": (kind, partial(make_pipeline, folder, kind, device)),
            f"torch, sorted, {kind}": (kind, partial(make_sorted, folder, torch_forward, kind, device)),
            f"OpenVINO, sorted, {kind}": (kind, partial(make_sorted, folder, openvino_forward, kind, device)),
        }
    for kind in ("fp32", "int8"):
        contenders[f"ONNX Runtime, sorted, {kind}"] = (kind, partial(make_sorted, folder, onnx_forward, kind, device))
    contenders["smsa, torch, fp32"] = ("fp32", partial(make_smsa, folder, "fp32", device, "torch"))
    for kind in ("fp32", "bf16", "int8"):
        contenders[f"smsa, {kind}"] = (kind, partial(make_smsa, folder, kind, device))
    if device == "cuda":  # the others run on CPUs only
        contenders = {name: made for name, made in contenders.items() if not re.search("OpenVINO|ONNX|int8", name)}
    return contenders


def main(args: argparse.Namespace) -> None:
    """Run every contender `--repeats` times in turn, and print medians as a table."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = list(load_splits(find_smsa(args.data_dir))["valid"]["text"])
    texts = [texts[i % len(texts)] + (f" {i}" if i >= len(texts) else "") for i in range(args.rows)]
    seconds: dict[str, list[float]] = {}
    outputs: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = models.make_model(args.shape, texts)
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        operations = models.count_operations(model, tokenizer(texts[:10_000], truncation=True)["input_ids"])
        source = folder / "texts.csv"
        pd.DataFrame({"text": texts}).to_csv(source, index=False)
        contenders = list_contenders(folder / "model", device)
        skipped = [name for name, (precision, _) in contenders.items() if models.is_emulated(precision, device)]
        runs = {name: make() for name, (_, make) in contenders.items() if name not in skipped}
        for repeat in range(args.repeats + 1):  # the first one warms up
            for name, run in runs.items():
                target = folder / f"{repeat}-{name}.csv"
                started = time.perf_counter()
                run(source, target)
                took = time.perf_counter() - started
                if repeat:
                    seconds.setdefault(name, []).append(took)
                outputs[name] = pd.read_csv(target)[COLUMNS].to_numpy()
                print(f"repeat {repeat}, {name}: {len(texts) / took:,.1f} rows/s", file=sys.stderr)
    kinds = sorted({contenders[name][0] for name in runs})
    products = {kind: models.measure_products(kind, device) for kind in kinds}
    exact, rows = outputs["torch, sorted, fp32"], []
    speeds = {name: len(texts) / statistics.median(values) for name, values in seconds.items()}
    for name, speed in speeds.items():
        share = speed * operations / products[contenders[name][0]]
        agree = (outputs[name].argmax(-1) == exact.argmax(-1)).mean()
        difference = np.abs(outputs[name] - exact).max()
        times = speed / next(iter(speeds.values()))
        rows.append([name, f"{speed:,.1f}", f"{times:.2f}", f"{share:.0%}", f"{agree:.2%}", f"{difference:.4f}"])
    rates = ", ".join(f"{kind} {rate / 1e12:.2f}" for kind, rate in products.items())
    facts = f"{len(texts):,} texts of {operations / 1e9:.2f} GFLOP; matrix products alone, in TFLOP/s: {rates}"
    titles = ["", "rows/s", "times the first", "share of the product limit", "labels as in fp32", "largest difference"]
    models.publish(args, device, facts, skipped, titles, rows)


if __name__ == "__main__":
    parser = models.make_parser(__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="texts of valid, repeated where there are not enough")
    main(parser.parse_args())
