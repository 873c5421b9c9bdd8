"""Ways to train one classifier, each in a process of its own; started by training.py, says one line of JSON.

python benchmarks/contenders.py NAME FOLDER SEED EPOCHS RECIPE [--option VALUE ...]
"""

import contextlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from models import GpuMonitor, measure_products
from sklearn.metrics import f1_score
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    logging,
    set_seed,
)

from scripts import finetune
from smsa.cli import parse
from smsa.data.arguments import DataArguments
from smsa.data.datasets import encode_splits, find_smsa, load_splits
from smsa.models.devices import set_up_process
from smsa.training.arguments import (
    ModelArguments,
    SentimentTrainingArguments,
)
from smsa.training.collation import LengthGroupedSampler, count_pieces
from smsa.training.kernels import use_fast_kernels

PEER_LENGTH = 128  # max_seq_length of transformers' run_classification.py and run_glue.py, which pad to it


class Clock(TrainerCallback):
    """Seconds of each epoch: its steps, the evaluation and the checkpoint; macro F1 on valid; how busy a GPU was."""

    def __init__(self, device_type: str):
        self.device_type = device_type
        self.epochs = []
        self.monitor = GpuMonitor(device_type)

    def _lap(self) -> float:
        if self.device_type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        lap, self.since = now - self.since, now
        return lap

    def on_epoch_begin(self, args=None, state=None, control=None, **kwargs):
        self.since = self.began = time.perf_counter()
        self.epochs.append({"steps": 0.0, "valid": 0.0, "save": 0.0, "f1": 0.0, "busy": None})

    def on_epoch_end(self, args=None, state=None, control=None, **kwargs):
        self.epochs[-1]["steps"] = self._lap()
        self.epochs[-1]["busy"] = self.monitor.share_since(self.began)

    def on_evaluate(self, args=None, state=None, control=None, metrics=None, **kwargs):
        self.epochs[-1]["valid"], self.epochs[-1]["f1"] = self._lap(), metrics["eval_f1"]

    def on_save(self, args=None, state=None, control=None, **kwargs):
        self.epochs[-1]["save"] = self._lap()


def load(folder: Path) -> tuple:
    """Get the model that all start from, its tokenizer, and train and valid as word pieces."""
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    files = find_smsa(folder / "data")
    splits = load_splits({split: files[split] for split in ("train", "valid")})
    return model, tokenizer, encode_splits(splits, tokenizer).remove_columns(["text", "line"])


def macro_f1(predictions: np.ndarray, label_ids: np.ndarray) -> float:
    return f1_score(label_ids, predictions, labels=[0, 1, 2], average="macro", zero_division=0)


def run_loop(folder: Path, args, like_ours: bool) -> Clock:
    """The loop of IndoNLU: fp32, shuffled, each batch padded to its longest; checkpoints are not written.

    `like_ours` gives it the precision, the order of texts, the kernels, the optimiser and the memory of smsa's Trainer.
    """
    if like_ours:
        set_up_process()
    model, tokenizer, splits = load(folder)
    device = args.device
    model.to(device).train()
    collate = DataCollatorWithPadding(tokenizer)
    sampler = None
    if like_ours and args.train_sampling_strategy == "group_by_length":
        sampler = LengthGroupedSampler(count_pieces(splits["train"]), args.train_batch_size, args.seed)
    if like_ours and args.fast_kernels:
        use_fast_kernels(model, device.type)
    elif like_ours and args.bf16 and device.type == "cpu":
        model.set_attn_implementation("eager")
    batches = DataLoader(
        splits["train"], args.train_batch_size, shuffle=sampler is None, sampler=sampler, collate_fn=collate
    )
    valid = DataLoader(splits["valid"], args.eval_batch_size, collate_fn=collate)
    half = like_ours and {"fp16": torch.float16, "bf16": torch.bfloat16}.get(args.mixed_precision)
    autocast = torch.autocast(device.type, half) if half else contextlib.nullcontext()
    scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
    fused = (like_ours and (args.fast_kernels or args.bf16)) or None
    optimizer = torch.optim.Adam(model.parameters(), args.learning_rate, fused=fused)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_step_size, args.lr_gamma)
    clock = Clock(device.type)
    for epoch in range(int(args.num_train_epochs)):
        if sampler is not None:
            sampler.set_epoch(epoch)
        clock.on_epoch_begin()
        running_loss, predictions, label_ids = 0.0, [], []
        for batch in batches:
            batch = batch.to(device)
            with autocast:
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            loss = functional.cross_entropy(logits.float(), batch["labels"])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            running_loss += loss.item()
            predictions += logits.argmax(-1).tolist()
            label_ids += batch["labels"].tolist()
        scheduler.step()
        if not math.isfinite(running_loss):
            raise FloatingPointError("the loss is not finite")
        clock.on_epoch_end()
        model.eval()
        predictions, label_ids = [], []
        with torch.inference_mode():
            for batch in valid:
                batch = batch.to(device)
                with autocast:
                    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                predictions += logits.argmax(-1).tolist()
                label_ids += batch["labels"].tolist()
        model.train()
        clock.on_evaluate(metrics={"eval_f1": macro_f1(np.array(predictions), np.array(label_ids))})
    return clock


def run_trainer(folder: Path, args, pads_to_128: bool) -> Clock:
    """Trainer as transformers' run_classification.py uses it: fp32, AdamW, a linear decay; by epochs, to compare."""
    model, tokenizer, splits = load(folder)
    if pads_to_128:
        splits = splits.map(
            lambda rows: tokenizer.pad(
                {name: [cells[:PEER_LENGTH] for cells in rows[name]] for name in tokenizer.model_input_names},
                padding="max_length",
                max_length=PEER_LENGTH,
            ),
            batched=True,
        )
    clock = Clock(args.device.type)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder / "peer"),
            per_device_train_batch_size=args.per_device_train_batch_size,
            per_device_eval_batch_size=args.per_device_eval_batch_size,
            learning_rate=args.learning_rate,
            num_train_epochs=args.num_train_epochs,
            seed=args.seed,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=splits["train"],
        eval_dataset=splits["valid"],
        data_collator=default_data_collator if pads_to_128 else DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda output: {"f1": macro_f1(output.predictions.argmax(-1), output.label_ids)},
        callbacks=[clock],
    )
    trainer.train()
    return clock


def run_smsa(options: tuple) -> Clock:
    """What scripts/finetune.py does, up to the end of training."""
    trainer, _, _ = finetune.prepare(*options[:3])
    clock = Clock(options[2].device.type)
    trainer.add_callback(clock)
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return clock


def peak_memory(device_type: str) -> float:
    """Get the most memory this process has had, in MiB: on the GPU if it ran there, else all that is resident."""
    if device_type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def main(name: str, folder: str, seed: str, epochs: str, *words: str) -> None:
    logging.set_verbosity_error()
    given = ["--model_name_or_path", f"{folder}/model", "--data_dir", f"{folder}/data", "--seed", seed]
    given += ["--num_train_epochs", epochs, "--output_dir", f"{folder}/run", "--early_stopping_patience", "0"]
    options = parse(ModelArguments, DataArguments, SentimentTrainingArguments, argv=[*words, *given])
    args = options[2]
    runs = {
        "plain loop": lambda: run_loop(Path(folder), args, like_ours=False),
        "Trainer, padded to 128": lambda: run_trainer(Path(folder), args, pads_to_128=True),
        "Trainer, dynamic padding": lambda: run_trainer(Path(folder), args, pads_to_128=False),
        "smsa": lambda: run_smsa(options),
        "loop like smsa": lambda: run_loop(Path(folder), args, like_ours=True),
    }
    # Plain products are not always as fast on a machine that others share: the faster of before and after counts.
    kind = "fp32" if "smsa" not in name else {"no": "fp32"}.get(args.mixed_precision, args.mixed_precision)
    [before] = measure_products(args.device.type, [kind]).values()
    set_seed(args.seed)
    clock = runs[name]()
    clock.monitor.stop()
    outcome = {"epochs": clock.epochs, "memory": peak_memory(args.device.type)}
    [after] = measure_products(args.device.type, [kind]).values()
    outcome |= {"precision": kind, "products": max(before, after) * args.world_size}
    if args.process_index == 0:
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
