"""Train one classifier as people do today and as smsa does, side by side, in one run on one machine.

python benchmarks/training.py --shape base --vocab_file vocab.txt --rows 256 --epochs 2
python benchmarks/training.py --shape small --rows 1600 --epochs 2
python benchmarks/training.py --shape small --epochs 5 --repeats 3 --only "plain loop" "smsa, default" "smsa, fast"
python benchmarks/training.py --shape mini --epochs 2 --repeats 1 --only "plain loop" "smsa, fast"
python benchmarks/training.py --startup
"""

import argparse
import json
import os
import platform
import random
import re
import select
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from models import count_operations, make_model

from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import LABELS
from smsa.evaluation.markdown import table
from smsa.models.devices import describe_hardware
from smsa.models.loading import load_model
from smsa.models.scratch import build_scratch

ROOT = Path(__file__).parent.parent
N_TRAIN, N_VALID = 11_000, 1_260  # of SmSA
GOOD_F1 = 0.85  # of valid; the time that each takes to get there is compared
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
BATCHES_OF_512 = ["--per_device_train_batch_size", "512"]
# for each contender: what runs in contenders.py, options that it adds to the recipe, processes
CONTENDERS: dict[str, tuple[str, list[str], int]] = {
    "plain loop": ("plain loop", [], 1),
    "Trainer, padded to 128": ("Trainer, padded to 128", [], 1),
    "Trainer, dynamic padding": ("Trainer, dynamic padding", [], 1),
    "smsa, default": ("smsa", [], 1),
    "loop like smsa, default": ("loop like smsa", [], 1),
    "smsa, fast": ("smsa", ["fast"], 1),
    "smsa, random order": ("smsa", ["--train_sampling_strategy", "random"], 1),
    "loop like smsa, fast": ("loop like smsa", ["fast"], 1),
    "smsa, fast, fp16": ("smsa", ["fast", "--precision", "fp16"], 1),
    "smsa, fast, batches of 512": ("smsa", ["fast", *BATCHES_OF_512], 1),
    "smsa, fast, fp16, batches of 512": ("smsa", ["fast", "--precision", "fp16", *BATCHES_OF_512], 1),
    "smsa, fast, one core": ("smsa", ["fast", "--num_threads", "1"], 1),
    "smsa, fast, two processes of one core": ("smsa", ["fast", "--num_threads", "1"], 2),
}
RECIPES = {"base": "recipes/indonlu.yaml", "small": "recipes/scratch.yaml", "mini": "recipes/mini.yaml"}
FAST = ["--train_sampling_strategy", "group_by_length", "--fast_kernels", "true"]  # recipes/fast.yaml, on any recipe


def write_start(folder: Path, args: argparse.Namespace) -> tuple[float, int]:
    """Write the model and the rows that all start from; get operations of a text, forward, and word pieces in all."""
    files, chosen = find_smsa(args.data_dir), {}
    (folder / "data").mkdir()
    for split in ("train", "valid"):
        texts, label_ids, *_ = read_rows(files[split])
        # of valid as many as SmSA has for its rows of train
        n_rows = args.rows and (args.rows if split == "train" else max(1, round(args.rows * N_VALID / N_TRAIN)))
        pairs = random.Random(0).sample(list(zip(texts, label_ids, strict=True)), n_rows or len(texts))
        lines = "".join(f"{text}\t{LABELS[label]}\n" for text, label in pairs)
        (folder / "data" / files[split].name).write_text(lines, encoding="utf-8")
        chosen[split] = [text for text, _ in pairs]
    everything = read_rows(files["train"])[0]
    torch.manual_seed(0)
    if args.shape == "mini":
        model, tokenizer = load_model("mini")
    elif args.shape == "small":
        model, tokenizer = build_scratch(everything, LABELS)
    else:
        model, tokenizer = make_model(args.shape, everything, args.vocab_file)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    n_pieces = sum(len(ids) for ids in tokenizer(chosen["train"], truncation=True)["input_ids"])
    return count_operations(model, tokenizer, chosen["train"]), n_pieces


def run(name: str, folder: Path, seed: int, args: argparse.Namespace) -> dict:
    """Run one contender in a process of its own, and get what contenders.py says."""
    kind, options, n_processes = CONTENDERS[name]
    recipe = RECIPES[args.shape]
    options = [*(FAST if "fast" in options else []), *(word for word in options if word != "fast"), *args.options]
    if n_processes > 1:  # the same texts a step
        options += ["--per_device_train_batch_size", str((16 if args.shape == "small" else 32) // n_processes)]
    start = [sys.executable]
    if n_processes > 1:
        start = [*LAUNCH, "configs/accelerate/cpu.yaml", "--num_processes", str(n_processes)]
    words = [*start, "benchmarks/contenders.py", kind, str(folder), str(seed), str(args.epochs), recipe, *options]
    places = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": places, "TQDM_DISABLE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} has failed:\n{done.stderr}")
    for left in ("run", "peer"):
        shutil.rmtree(folder / left, ignore_errors=True)
    return json.loads(done.stdout.strip().split("\n")[-1])


def time_to_f1(epochs: list[dict]) -> float | None:
    """Get the seconds of training, evaluation and checkpoints up to the first epoch with `GOOD_F1`; None if never."""
    seconds = 0.0
    for epoch in epochs:
        seconds += epoch["steps"] + epoch["valid"] + epoch["save"]
        if epoch["f1"] >= GOOD_F1:
            return seconds
    return None


def summarise(outcomes: dict[str, list[dict]], n_rows: int, n_pieces: int, operations: float) -> list[dict]:
    """Get the figures of each contender, medians over repeats; `operations` are those of a text, forward.

    `rows` are rows/s of the steps alone, as `rows_per_second` counts them; `times` is the ratio to the first contender
    in the same repeat; `whole` are rows/s of an epoch of SmSA, with its evaluation and a checkpoint; `utilisation` is
    the share of the rate of plain products in the same process; `busy` is the share of the last epoch's steps in which
    the GPU ran anything, by nvidia-smi, None where that is not known.
    """
    figures = []
    for name, repeats in outcomes.items():
        rows = [rows_per_second(run, n_rows) for run in repeats]
        first = [rows_per_second(run, n_rows) for run in next(iter(outcomes.values()))]
        n_epochs = len(repeats[0]["epochs"])
        valid = [sum(epoch["valid"] for epoch in run["epochs"]) / n_epochs / n_rows for run in repeats]
        save = [statistics.median(epoch["save"] for epoch in run["epochs"]) / N_TRAIN for run in repeats]
        figures.append({
            "name": name,
            "rows": statistics.median(rows),
            "times": statistics.median(a / b for a, b in zip(rows, first, strict=True)),
            "whole": statistics.median(1 / (1 / a + b + c) for a, b, c in zip(rows, valid, save, strict=True)),
            "pieces": statistics.median(rows) * n_pieces / n_rows,
            "utilisation": statistics.median(
                3 * operations * a / run["products"] for a, run in zip(rows, repeats, strict=True)
            ),
            "busy": middle(run["epochs"][-1]["busy"] for run in repeats),
            "memory": statistics.median(run["memory"] for run in repeats),
            "best_f1": [max(epoch["f1"] for epoch in run["epochs"]) for run in repeats],
            "seconds_to_f1": [time_to_f1(run["epochs"]) for run in repeats],
        })  # fmt: skip
    return figures


def middle(values: Iterable[float | None]) -> float | None:
    """Get the median of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def rows_per_second(run: dict, n_rows: int) -> float:
    """Get rows/s of the steps of all epochs but the first, in which memory is had from the system; or of the only one.

    Whole epochs: batches of texts of similar length take from a quarter to four times as long as others.
    """
    counted = run["epochs"][1:] or run["epochs"]
    return len(counted) * n_rows / sum(epoch["steps"] for epoch in counted)


def write_table(figures: list[dict], epochs: int, has_scores: bool) -> list[str]:
    """Get the table, ratios to the first contender; `has_scores`: macro F1 too, which says nothing of a few rows."""
    titles = ["", "rows/s", "times", "with evaluation and checkpoints", "word pieces/s", "utilisation", "peak MiB"]
    on_gpu = any(entry["busy"] is not None for entry in figures)
    if on_gpu:
        titles += ["GPU busy"]
    if has_scores:
        titles += ["best valid macro F1", f"s to {GOOD_F1}"]
    rows = []
    for entry in figures:
        row = [entry["name"], f"{entry['rows']:,.1f}", f"{entry['times']:.2f}",
               f"{entry['whole']:,.1f}", f"{entry['pieces']:,.0f}", f"{entry['utilisation']:.0%}",
               f"{entry['memory']:,.0f}"]  # fmt: skip
        if on_gpu:
            row.append("" if entry["busy"] is None else f"{entry['busy']:.0%}")
        if has_scores:
            best, reached = entry["best_f1"], entry["seconds_to_f1"]
            deviation = f" ± {statistics.stdev(best):.4f}" if len(best) > 1 else ""
            never = f"never in {epochs} epochs, {sum(seconds is None for seconds in reached)} of {len(reached)} runs"
            row += [f"{statistics.mean(best):.4f}{deviation}",
                    never if None in reached else f"{statistics.median(reached):,.0f}"]  # fmt: skip
        rows.append(row)
    return table(titles, rows)


def draw(figures: list[dict], title: str, path: Path) -> None:
    """Draw rows/s of each contender as a bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.38 * len(figures)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    colors = ["#0072B2" if entry["name"].startswith("smsa") else "#999999" for entry in figures]
    bars = axes.barh([entry["name"] for entry in figures], [entry["rows"] for entry in figures], color=colors)
    axes.bar_label(bars, [f"{entry['rows']:,.1f}" for entry in figures], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("rows/s in training, median")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=150)


def measure_startup(args: argparse.Namespace) -> None:
    """Print when the stages of a run are reached, from the command to the end of the first step."""
    stages = {"libraries imported": r"Precision:", "data read": r"valid: [\d,]+ texts", "first step": r"TRAIN LOSS"}
    for repeat in range(args.repeats):
        with tempfile.TemporaryDirectory() as name:
            write_start(Path(name), args)
            words = [*LAUNCH, "accelerate_config.yaml", "scripts/finetune.py", "--model_name_or_path", f"{name}/model",
                     "--data_dir", str(find_smsa(args.data_dir)["train"].parent), "--output_dir", f"{name}/run",
                     "--max_steps", "1", *args.options]  # fmt: skip
            started, text, reached = time.perf_counter(), "", {}
            process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while "first step" not in reached and select.select([process.stderr], [], [], 120)[0]:
                piece = os.read(process.stderr.fileno(), 1 << 16).decode(errors="replace")
                if not piece:
                    raise SystemExit(f"It ended before the first step:\n{text}")
                text += piece
                for stage, pattern in stages.items():
                    if stage not in reached and re.search(pattern, text):
                        reached[stage] = time.perf_counter() - started
            process.kill()
            process.wait()
            print(
                f"repeat {repeat + 1}: " + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in reached.items())
            )


def main(args: argparse.Namespace) -> None:
    """Run every contender `--repeats` times in turn; print the table, and write it with a picture and raw figures."""
    transformers.logging.set_verbosity_error()
    if args.startup:
        measure_startup(args)
        return
    on_gpu = torch.cuda.is_available() and "--use_cpu" not in args.options
    # two processes would meet on one GPU, which NCCL refuses; a CPU has no fp16, and is as fast by small batches
    elsewhere = ("core",) if on_gpu else ("fp16", "512")
    names = [name for name in CONTENDERS if not any(word in name for word in elsewhere)]
    if args.only:
        names = [name for name in CONTENDERS if name in args.only]
    outcomes: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        operations, n_pieces = write_start(folder, args)
        n_rows = args.rows or N_TRAIN
        for repeat in range(args.repeats):
            for name in names:
                outcome = run(name, folder, repeat + 1, args)
                outcomes[name].append(outcome)
                speed = rows_per_second(outcome, n_rows)
                scores = " ".join(f"{epoch['f1']:.4f}" for epoch in outcome["epochs"]) if args.epochs > 1 else ""
                print(
                    f"repeat {repeat + 1}, {name}: {speed:,.1f} rows/s {scores}",
                    flush=True,
                )
    figures = summarise(outcomes, n_rows, n_pieces, operations)
    products = [run["products"] / 1e12 for repeats in outcomes.values() for run in repeats]
    hardware = describe_hardware()
    machine = f"{', '.join(hardware['gpus']) or hardware['cpu']}, {hardware['n_threads']} CPU threads"
    lines = [
        f"$ python benchmarks/training.py {shlex.join(sys.argv[1:])}",
        "",
        f"{machine}; Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}. {n_rows:,} rows of train, {n_pieces / n_rows:.1f} word pieces each, "
        f"{args.epochs} epoch(s){', of which the first is not counted' * (args.epochs > 1)}, {args.repeats} repeat(s), "
        "seeds from 1.",
        f"One text, forward and back: {3 * operations / 1e9:.2f} GFLOP, pads not counted. Plain matrix products did "
        f"{min(products):.2f} to {max(products):.2f} TFLOP/s beside each run; ratios are medians over repeats.",
        "",
        *write_table(figures, args.epochs, has_scores=args.epochs > 1 and args.rows is None),
    ]
    print("\n".join(lines))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        args.output.with_suffix(".json").write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
        draw(figures, f"{args.shape}, {machine}", args.output.with_suffix(".png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--shape", choices=RECIPES, default="small", help="base is indobert-base-p1's, small that of scratch"
    )
    parser.add_argument("--vocab_file", type=Path, help="vocab.txt for base; learned from train if not given")
    parser.add_argument("--data_dir", help="folder of SmSA; found as finetune.py does if not given")
    parser.add_argument("--rows", type=int, help="rows of train, chosen at random; all if not given")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender, with seeds from 1")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, metavar="CONTENDER", help=f"run only these: {shlex.join(CONTENDERS)}"
    )
    parser.add_argument("--output", type=Path, help="where .md, .json and .png go, without suffix")
    parser.add_argument("--startup", action="store_true", help="print when the stages up to the first step are reached")
    args, parser_rest = parser.parse_known_args()
    args.options = parser_rest  # of scripts/finetune.py, for all contenders
    main(args)
