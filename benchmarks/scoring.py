"""Score one CSV into another with probabilities: smsa beside what people use today, in one run on one machine.

python benchmarks/scoring.py --shape base
python benchmarks/scoring.py --shape small --rows 20000 --only smsa
python benchmarks/scoring.py --shape base --device cuda --rows 200000 --repeats 3
python benchmarks/scoring.py --shape base --device cuda --rows 2000000 --format parquet --stages
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from models import (
    DTYPES,
    SHAPES,
    GpuMonitor,
    count_operations,
    make_model,
    measure_products,
)
from transformers import logging, pipeline

from smsa import SentimentClassifier, score_files
from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import LABELS
from smsa.data.reading import Source
from smsa.inference.batching import pad_batch
from smsa.inference.engine import to_openvino
from smsa.inference.writers import INPUT_FORMATS, find_layout, render_rows
from smsa.models.devices import describe_hardware

HALF = {"cpu": "bf16", "cuda": "fp16"}  # precision of 16 bits
PEER_BATCH = 32  # texts, as in most tutorials
STAGE_ROWS = 100_000  # of which the stages are measured alone, all in memory
COUNTED_ROWS = 10_000  # whose word pieces are counted, at the most
Run = Callable[[Path, Path], None]  # CSV in, CSV out


def write_probabilities(path: Path, texts: list[str], probabilities: np.ndarray) -> None:
    """Write what a user would: the text, the label and a probability each."""
    table = pd.DataFrame({"text": texts, "label": np.array(LABELS)[probabilities.argmax(-1)]})
    table.assign(**{f"p_{label}": probabilities[:, i] for i, label in enumerate(LABELS)}).to_csv(path, index=False)


def run_pipeline(model, tokenizer, batch_size: int, dtype: torch.dtype, device: str) -> Run:
    classify = pipeline("text-classification", model=model.to(dtype), tokenizer=tokenizer, device=device, top_k=None)

    def run(source: Path, target: Path) -> None:
        texts = pd.read_csv(source)["text"].tolist()
        answers = classify(texts, batch_size=batch_size, truncation=True)
        scores = [{entry["label"]: entry["score"] for entry in answer} for answer in answers]
        write_probabilities(target, texts, np.array([[row[label] for label in LABELS] for row in scores]))

    return run


def run_sorted(tokenizer, forward: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Run:
    """Sort by length, cut into batches of 32, pad each to its longest: what a careful user writes."""

    def run(source: Path, target: Path) -> None:
        texts = pd.read_csv(source)["text"].tolist()
        token_ids = [np.array(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
        order = sorted(range(len(texts)), key=lambda i: len(token_ids[i]))
        logits = np.empty((len(texts), len(LABELS)))
        for start in range(0, len(texts), PEER_BATCH):
            batch = order[start : start + PEER_BATCH]
            logits[batch] = forward(*pad_batch([token_ids[i] for i in batch], 0))
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        write_probabilities(target, texts, powers / powers.sum(-1, keepdims=True))

    return run


def torch_forward(model, dtype: torch.dtype, device: str):
    model = model.to(device, dtype)

    @torch.inference_mode()
    def forward(input_ids, attention_mask):
        ids, mask = (torch.from_numpy(array).to(device) for array in (input_ids, attention_mask))
        return model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()

    return forward


def openvino_forward(model, precision: str):
    import openvino

    compiled = openvino.Core().compile_model(to_openvino(model), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda input_ids, attention_mask: compiled([input_ids, attention_mask])[0]


def onnx_forward(model, folder: Path, int8: bool):
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path, names = folder / "model.onnx", ["input_ids", "attention_mask"]
    example = tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names)
    axes = {name: {0: "batch", 1: "pieces"} for name in names}
    torch.onnx.export(
        model, example, path, input_names=names, dynamic_axes=axes, dynamo=False, output_names=["logits"]
    )  # fmt: skip
    if int8:
        quantize_dynamic(path, folder / "int8.onnx", weight_type=QuantType.QInt8)
        path = folder / "int8.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, dict(zip(names, (ids, mask), strict=True)))[0]


def run_smsa(model, tokenizer, **engine) -> Run:
    classifier = SentimentClassifier(model, tokenizer, **engine)

    def run(source: Path, target: Path) -> None:
        score_files(classifier, [source], target)
        target.with_name(f"{target.name}.summary.json").unlink()

    return run


def make_runs(fresh: Callable[[], tuple], folder: Path, wanted: str, device: str) -> Iterator[tuple[str, Run]]:
    """Yield each contender by name; those whose library is missing say so. On a GPU torch alone runs."""
    _, tokenizer = fresh()
    half = HALF[device]
    makers: dict[str, tuple[str, Callable[[], Run]]] = {
        "pipeline(batch_size=1)": ("torch", lambda: run_pipeline(*fresh(), 1, torch.float32, device)),
        "pipeline(batch_size=32)": ("torch", lambda: run_pipeline(*fresh(), 32, torch.float32, device)),
        f"pipeline(batch_size=32), {half}": ("torch", lambda: run_pipeline(*fresh(), 32, DTYPES[half], device)),
        "torch fp32, sorted": (
            "torch",
            lambda: run_sorted(tokenizer, torch_forward(fresh()[0], torch.float32, device)),
        ),
        f"torch {half}, sorted": (
            "torch",
            lambda: run_sorted(tokenizer, torch_forward(fresh()[0], DTYPES[half], device)),
        ),
        "OpenVINO fp32, sorted": ("openvino", lambda: run_sorted(tokenizer, openvino_forward(fresh()[0], "f32"))),
        "OpenVINO bf16, sorted": ("openvino", lambda: run_sorted(tokenizer, openvino_forward(fresh()[0], "bf16"))),
        "ONNX Runtime fp32, sorted": (
            "onnxruntime",
            lambda: run_sorted(tokenizer, onnx_forward(fresh()[0], folder, False)),
        ),
        "ONNX Runtime dynamic int8, sorted": (
            "onnxruntime",
            lambda: run_sorted(tokenizer, onnx_forward(fresh()[0], folder, True)),
        ),
        "smsa, torch": ("torch", lambda: run_smsa(*fresh(), device=device, backend="torch")),
        "smsa, OpenVINO": ("openvino", lambda: run_smsa(*fresh(), device="cpu", backend="openvino")),
        "smsa, OpenVINO int8": (
            "openvino",
            lambda: run_smsa(*fresh(), device="cpu", backend="openvino", precision="int8"),
        ),
    }
    for name, (library, make) in makers.items():
        if wanted not in name or (device == "cuda" and library != "torch"):
            continue
        if importlib.util.find_spec(library) is None:
            print(f"{name}: not run, {library} is not installed")
        else:
            yield name, make()


def write_texts(path: Path, texts: list[str]) -> Path:
    """Write a column `text` as CSV or Parquet, as the suffix says."""
    table = pd.DataFrame({"text": texts})
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


def print_stages(fresh, texts: list[str], folder: Path, kind: str, engine: dict) -> None:
    """Print the rate of each stage alone, on all cores, and of all together, from file to file.

    A job reads its input once more before it starts, hashes what it reads and writes, and puts its parts together.
    """
    classifier = SentimentClassifier(*fresh(), **engine)
    source = write_texts(folder / f"some.{kind}", texts[:STAGE_ROWS])
    reader = Source(source, find_layout(source, INPUT_FORMATS), kind)
    n_rows, rates = min(len(texts), STAGE_ROWS), {}

    def measure(name: str, task: Callable[[], object]) -> object:
        task()
        started = time.perf_counter()
        outcome = task()
        rates[name] = n_rows / (time.perf_counter() - started)
        return outcome

    windows = measure("read", lambda: list(reader.windows(classifier.engine.window_rows)))
    encoded = measure("tokenise", lambda: [classifier.encode(window.texts) for window in windows])
    scores = measure("model", lambda: [classifier.classify(window) for window in encoded])
    pairs = list(zip(windows, scores, strict=True))
    measure("render", lambda: [render_rows(kind, window.table, s.to_table()) for window, s in pairs])
    whole, run = write_texts(folder / f"all.{kind}", texts), run_smsa(*fresh(), **engine)
    run(source, folder / f"warm.{kind}")
    monitor, started = GpuMonitor(classifier.engine.device.type), time.perf_counter()
    run(whole, folder / f"scored.{kind}")
    speed, busy = len(texts) / (time.perf_counter() - started), monitor.share_since(started)
    monitor.stop()
    for written in folder.glob(f"*.{kind}"):
        written.unlink()
    listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    share = speed / min(rates.values())
    of_gpu = "" if busy is None else f"; GPU busy {busy:.0%}"
    print(f"stages, rows/s of {n_rows:,}: {listed}; {len(texts):,} from file to file {speed:,.0f}, {share:.0%} of the "
          f"slowest stage{of_gpu}", flush=True)  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Measure every contender `--repeats` times in turn, and print the table."""
    logging.set_verbosity_error()
    texts, *_ = read_rows(find_smsa(args.data_dir)["valid"])
    texts = [texts[i % len(texts)] + (f" {i}" if i >= len(texts) else "") for i in range(args.rows or len(texts))]
    if args.model:
        from smsa.models.loading import load_classifier

        def fresh():
            return load_classifier(args.model)
    else:

        def fresh():
            return make_model(args.shape, texts, args.vocab_file)

    model, tokenizer = fresh()
    kinds = ("fp32", HALF[args.device], *["int8"] * (args.device == "cpu"))
    rates, operations = (
        measure_products(args.device, kinds),
        count_operations(model, tokenizer, texts[:COUNTED_ROWS]),
    )
    hardware = describe_hardware(args.device)
    processor = ", ".join(hardware["gpus"]) or hardware["cpu"]
    print(f"{processor}, {hardware['n_threads']} threads, torch {torch.__version__}; {args.model or args.shape}, "
          f"{model.num_parameters():,} parameters; {len(texts):,} texts of {operations / 1e9:.2f} GFLOP")  # fmt: skip
    print("matrix products: " + ", ".join(
        f"{name} {rate / 1e12:.2f} TFLOP/s = {rate / operations:,.0f} rows/s" for name, rate in rates.items()
    ))  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.stages:
            engines = [{"backend": "torch"}, {"backend": "openvino"}, {"backend": "openvino", "precision": "int8"}]
            for engine in engines if args.device == "cpu" else engines[:1]:
                engine |= {"device": args.device}
                print(engine)
                print_stages(fresh, texts, folder, args.format, engine)
            return
        source, target = write_texts(folder / "in.csv", texts), folder / "out.csv"
        runs = list(make_runs(fresh, folder, args.only, args.device))
        seconds: dict[str, list[float]] = {name: [] for name, _ in runs}
        outputs: dict[str, np.ndarray] = {}
        run_sorted(tokenizer, torch_forward(model, torch.float32, args.device))(source, target)
        exact = pd.read_csv(target)[[f"p_{label}" for label in LABELS]].to_numpy()
        for repeat in range(args.repeats):
            for name, run in runs:
                target.unlink(missing_ok=True)
                started = time.perf_counter()
                run(source, target)
                seconds[name].append(time.perf_counter() - started)
                outputs[name] = pd.read_csv(target)[[f"p_{label}" for label in LABELS]].to_numpy()
                print(f"  repeat {repeat + 1}, {name}: {len(texts) / seconds[name][-1]:,.1f} rows/s", flush=True)
    print_table(seconds, outputs, exact)


def print_table(seconds: dict[str, list[float]], outputs: dict[str, np.ndarray], exact: np.ndarray) -> None:
    """Print medians and ratios as Markdown, and how far each is from fp32."""
    speeds = {name: len(exact) / statistics.median(values) for name, values in seconds.items()}
    base = speeds.get("pipeline(batch_size=32)")
    print(
        "\n| | rows/s | times pipeline(batch_size=32) | labels as in fp32 | largest difference |\n|---|---|---|---|---|"
    )
    for name, speed in speeds.items():
        ratio = f"{speed / base:.1f}" if base else ""
        agree = (outputs[name].argmax(-1) == exact.argmax(-1)).mean()
        print(f"| {name} | {speed:,.1f} | {ratio} | {agree:.2%} | {np.abs(outputs[name] - exact).max():.4f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="base", help="Shape of a random BERT.")
    parser.add_argument("--device", choices=HALF, default="cpu", help="What scores.")
    parser.add_argument("--model", help="Fine-tuned model to use instead of a random one.")
    parser.add_argument(
        "--vocab_file", type=Path, help="vocab.txt of a WordPiece tokenizer; learned from the texts if not given."
    )
    parser.add_argument("--data_dir", help="Folder of SmSA, whose valid texts are scored; found as finetune.py does.")
    parser.add_argument(
        "--rows", type=int, help="Texts to score; the valid texts again, numbered, if there are not enough."
    )
    parser.add_argument("--repeats", type=int, default=5, help="Runs of each contender; the median is printed.")
    parser.add_argument("--only", default="", help="Run only contenders with this in their name.")
    parser.add_argument("--stages", action="store_true", help="Print the rate of each stage of smsa instead.")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="Of the files, with --stages.")
    main(parser.parse_args())
