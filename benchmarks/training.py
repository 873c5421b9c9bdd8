"""Train one classifier as people do today and as smsa does, side by side in one run on one machine.

python benchmarks/training.py --output runs/bench/training.md

Every contender runs in a process of its own, from the same weights and rows. Rows/s count only training steps, without
evaluation and checkpoints, and not the first epoch, which also allocates memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import datasets
import models
import torch
import transformers
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainerCallback

from smsa import SentimentTrainer, SentimentTrainingArguments, encode_splits, find_smsa, load_splits
from smsa.runtime import set_up_process

LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 10.0
FAST = {"train_sampling_strategy": "group_by_length", "fast_kernels": True}  # recipes/fast.yaml
# For each contender: what trains, its precision, and options beside smsa's defaults.
CONTENDERS: dict[str, tuple[str, str, dict]] = {
    "plain loop, fp32": ("loop", "fp32", {}),
    "plain loop, bf16": ("loop", "bf16", {}),
    "Trainer, fp32": ("trainer", "fp32", {}),
    "Trainer, bf16": ("trainer", "bf16", {}),
    "smsa": ("smsa", "auto", {}),
    "smsa, fast": ("smsa", "auto", FAST),
}


class Clock(TrainerCallback):
    """Measure the seconds of the steps of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, args=None, state=None, control=None, **kwargs):
        self.started = time.perf_counter()

    def on_epoch_end(self, args=None, state=None, control=None, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started)


def run_loop(model, tokenizer, rows: datasets.Dataset, precision: str, args: argparse.Namespace) -> list[float]:
    """Train as the tutorial's loop does, each batch padded to its longest; return the seconds of each epoch."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    batches = DataLoader(rows, args.batch_size, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    clock, losses = Clock(), []
    for _ in range(args.epochs):
        clock.on_epoch_begin()
        for batch in batches:
            batch = batch.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = functional.cross_entropy(logits.float(), batch["labels"])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            losses.append(loss.item())
        clock.on_epoch_end()
    return clock.seconds


def make_trainer(
    name: str, model, tokenizer, rows: datasets.Dataset, folder: Path, args: argparse.Namespace
) -> transformers.Trainer:
    """Return transformers' Trainer with its defaults, or smsa's."""
    kind, precision, options = CONTENDERS[name]
    common = {
        "output_dir": tempfile.mkdtemp(dir=folder),
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": args.epochs,
        "learning_rate": LEARNING_RATE,
        "max_grad_norm": MAX_GRAD_NORM,
    }
    if kind == "trainer":
        common |= {"bf16": precision == "bf16", "use_cpu": not torch.cuda.is_available()}
        quiet = transformers.TrainingArguments(**common, save_strategy="no", report_to="none", disable_tqdm=True)
        return transformers.Trainer(model, quiet, train_dataset=rows, processing_class=tokenizer)
    set_up_process()  # as scripts/finetune.py does
    ours = SentimentTrainingArguments(**common, **options, early_stopping_patience=0)
    return SentimentTrainer(model, ours, rows, rows.select(range(8)), processing_class=tokenizer)


def run_contender(name: str, folder: Path, args: argparse.Namespace) -> dict:
    """Train one contender in this process; return seconds of each epoch, precision, speed of products and memory."""
    transformers.logging.set_verbosity_error()
    kind, precision, _ = CONTENDERS[name]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = datasets.load_from_disk(folder / "rows")
    transformers.set_seed(0)
    if kind == "loop":
        seconds = run_loop(model, tokenizer, rows, precision, args)
    else:
        trainer, clock = make_trainer(name, model, tokenizer, rows, folder, args), Clock()
        trainer.add_callback(clock)
        trainer.train()
        seconds, precision = clock.seconds, "bf16" if trainer.args.bf16 else "fp32"
    if torch.cuda.is_available():
        device, memory = "cuda", torch.cuda.max_memory_reserved() / 2**20
    else:
        device, memory = "cpu", int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10
    products = models.measure_products(precision, device)
    return {"seconds": seconds, "precision": precision, "products": products, "memory": memory}


def main(args: argparse.Namespace) -> None:
    """Run every contender `--repeats` times in turn, and print medians as a table."""
    if args.contender:
        print(json.dumps(run_contender(args.contender, args.folder, args)))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    skipped = [name for name, (_, precision, _) in CONTENDERS.items() if models.is_emulated(precision, device)]
    outcomes: dict[str, list[dict]] = {name: [] for name in CONTENDERS if name not in skipped}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        splits = load_splits(find_smsa(args.data_dir))
        model, tokenizer = models.make_model(args.shape, list(splits["train"]["text"]))
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        train = encode_splits(splits, tokenizer)["train"].shuffle(seed=0)
        train = train.select(range(min(args.rows, len(train)))).remove_columns(["text", "line"])
        train.save_to_disk(folder / "rows")
        operations = 3 * models.count_operations(model, list(train["input_ids"]))  # backward is twice forward
        for repeat in range(args.repeats):
            for name, measured in outcomes.items():
                words = [sys.executable, __file__, *sys.argv[1:], "--contender", name, "--folder", str(folder)]
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{name} has failed:\n{done.stderr}")
                outcome = json.loads(done.stdout.splitlines()[-1])
                counted = outcome["seconds"][1:] or outcome["seconds"]
                outcome["rate"] = len(counted) * len(train) / sum(counted)
                measured.append(outcome)
                print(f"repeat {repeat + 1}, {name}: {outcome['rate']:,.1f} rows/s", file=sys.stderr)
    n_tokens = sum(map(len, train["input_ids"])) / len(train)
    rows, first = [], next(iter(outcomes.values()))
    for name, measured in outcomes.items():
        rate, memory = (statistics.median(run[key] for run in measured) for key in ("rate", "memory"))
        ratios = (run["rate"] / base["rate"] for run, base in zip(measured, first, strict=True))
        share = statistics.median(operations * run["rate"] / run["products"] for run in measured)
        cells = [f"{rate:,.1f}", f"{statistics.median(ratios):.2f}", f"{share:.0%}", f"{memory:,.0f}"]
        rows.append([name, measured[0]["precision"], *cells])
    facts = f"{len(train):,} texts of {n_tokens:.1f} tokens, batches of {args.batch_size}, {args.epochs} epochs"
    titles = ["", "precision", "rows/s", "times the first", "share of the product limit", "peak MiB"]
    models.publish(args, device, facts, skipped, titles, rows)


if __name__ == "__main__":
    parser = models.make_parser(__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="training texts, drawn at random")
    parser.add_argument("--batch_size", type=int, default=32, help="texts a step")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each run; the first is not counted")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    main(parser.parse_args())
