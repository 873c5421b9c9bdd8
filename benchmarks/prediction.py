"""Label the texts of one CSV as people do today and as smsa does, side by side in one run on one machine.

python benchmarks/prediction.py --output runs/bench/prediction.md
python benchmarks/prediction.py --shape small --rows 2000

Each contender reads a CSV, labels its texts and writes a CSV with a label and three probabilities.
"""

import argparse
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
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from smsa import SentimentClassifier, find_smsa, load_splits, predict_files
from smsa.data.labels import LABELS

BATCH_SIZE = 32  # of the peers, as in most tutorials
COLUMNS = [f"p_{label}" for label in LABELS]
# For each contender the precisions that it is run in.
CONTENDERS = {
    "pipeline": ("fp32", "bf16"),
    "torch, sorted": ("fp32", "bf16"),
    "OpenVINO, sorted": ("fp32", "bf16"),
    "ONNX Runtime, sorted": ("fp32", "int8"),
    "smsa, torch": ("fp32",),
    "smsa": ("fp32", "bf16", "int8"),
}


def load_pipeline(folder: Path, precision: str, device: str):
    classify = pipeline("text-classification", str(folder), device=device, dtype=models.DTYPES[precision], top_k=None)

    def predict(texts: list[str]) -> np.ndarray:
        answers = classify(texts, batch_size=BATCH_SIZE, truncation=True)
        rows = ({entry["label"]: entry["score"] for entry in answer} for answer in answers)
        return np.array([[row[label] for label in LABELS] for row in rows])

    return predict


def load_torch(folder: Path, precision: str, device: str):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=models.DTYPES[precision]).to(device).eval()

    @torch.inference_mode()
    def forward(inputs: dict[str, np.ndarray]) -> np.ndarray:
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        return model(**tensors).logits.float().cpu().numpy()

    return forward


def export(folder: Path) -> Path:
    """Return the ONNX file of the model, which ONNX Runtime and OpenVINO read; it is written the first time."""
    path, names = folder / "model.onnx", ["input_ids", "attention_mask"]
    if not path.exists():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
        axes = {name: {0: "batch", 1: "tokens"} for name in names}
        torch.onnx.export(model, example, path, input_names=names, output_names=["logits"], dynamic_axes=axes,
                          dynamo=False)  # fmt: skip
    return path


def load_openvino(folder: Path, precision: str, device: str):
    import openvino

    config = {"INFERENCE_PRECISION_HINT": precision.replace("fp32", "f32")}
    compiled = openvino.Core().compile_model(export(folder), "CPU", config)
    return lambda inputs: compiled(inputs)[0]


def load_onnx(folder: Path, precision: str, device: str):
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


def predict_sorted(tokenizer, forward: Callable[[dict[str, np.ndarray]], np.ndarray], texts: list[str]) -> np.ndarray:
    """Predict in batches of texts of similar length, each padded to its longest, as a careful user would."""
    token_ids = tokenizer(texts, truncation=True)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(token_ids[i]))
    logits = np.empty((len(texts), len(LABELS)))
    for start in range(0, len(texts), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        inputs = tokenizer.pad({"input_ids": [token_ids[i] for i in batch]}, return_tensors="np")
        logits[batch] = forward({name: inputs[name] for name in ("input_ids", "attention_mask")})
    return softmax(logits, axis=-1)


def load(name: str, precision: str, folder: Path, device: str) -> Callable[[Path, Path], None]:
    """Return a function that labels a CSV: smsa's job over files, or a peer between two calls of pandas."""
    if name.startswith("smsa"):
        engine = {"precision": precision.replace("fp32", "no"), "backend": "torch" if "torch" in name else "auto"}
        classifier = SentimentClassifier.from_pretrained(str(folder), device=device, **engine)
        return lambda source, target: predict_files(classifier, [source], target)
    loaders = {"pipeline": load_pipeline, "torch": load_torch, "OpenVINO": load_openvino, "ONNX Runtime": load_onnx}
    predict = loaders[name.split(",")[0]](folder, precision, device)
    if "sorted" in name:
        predict = partial(predict_sorted, AutoTokenizer.from_pretrained(folder), predict)

    def run(source: Path, target: Path) -> None:
        texts = pd.read_csv(source)["text"].tolist()
        probabilities = predict(texts)
        table = pd.DataFrame({"text": texts, "label": np.array(LABELS)[probabilities.argmax(-1)]})
        table[COLUMNS] = probabilities
        table.to_csv(target, index=False)

    return run


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
        names = [(name, kind) for name, kinds in CONTENDERS.items() for kind in kinds]
        if device == "cuda":  # OpenVINO, ONNX Runtime and int8 run on CPUs
            names = [(name, kind) for name, kind in names if name[0] != "O" and kind != "int8"]
        skipped = [f"{name}, {kind}" for name, kind in names if models.is_emulated(kind, device)]
        names = [(name, kind) for name, kind in names if not models.is_emulated(kind, device)]
        runs = {f"{name}, {kind}": load(name, kind, folder / "model", device) for name, kind in names}
        for repeat in range(args.repeats + 1):  # the first one warms up
            for name, run in runs.items():
                target = folder / f"{repeat}-{name}.csv"
                started = time.perf_counter()
                run(source, target)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
                outputs[name] = pd.read_csv(target)[COLUMNS].to_numpy()
                print(f"repeat {repeat}, {name}: {len(texts) / seconds[name][-1]:,.1f} rows/s", file=sys.stderr)
    products = {kind: models.measure_products(kind, device) for kind in sorted({kind for _, kind in names})}
    exact, rows = outputs["torch, sorted, fp32"], []
    speeds = {name: len(texts) / statistics.median(values[1:]) for name, values in seconds.items()}
    for name, speed in speeds.items():
        share = speed * operations / products[name.split()[-1]]
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
