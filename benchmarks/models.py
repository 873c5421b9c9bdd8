"""The models that benchmarks run on, and how fast their matrix products alone would be."""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from smsa.data.labels import LABELS, label_maps
from smsa.models.scratch import train_vocabulary
from smsa.runtime import describe_hardware

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
SHAPES = {
    # indobert-base-p1: 124,443,651 parameters
    "base": {"vocab_size": 50_000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    # recipes/scratch.yaml
    "small": {"vocab_size": 8_000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
}


def make_model(shape: str, texts: list[str]) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """Return a random BERT of a shape in `SHAPES`, and a tokenizer with a vocabulary learned from the texts."""
    vocabulary = train_vocabulary(texts, SHAPES[shape]["vocab_size"])
    torch.manual_seed(0)
    config = BertConfig(**SHAPES[shape], intermediate_size=4 * SHAPES[shape]["hidden_size"], **label_maps(LABELS))
    return BertForSequenceClassification(config).eval(), BertTokenizer(vocab=vocabulary, model_max_length=512)


def count_operations(model: torch.nn.Module, token_ids: list[list[int]]) -> float:
    """Return the mean operations per text of the encoder's matrix products, forward and without padding."""
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    lengths = np.array([len(ids) for ids in token_ids])
    layers = {name: module for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    n_weights = sum(module.weight.numel() for name, module in layers.items() if not name.startswith("pooler"))
    # per token: each weight of the layers; per layer: two products of the tokens with each other
    return float(np.mean(2 * n_weights * lengths + depth * 4 * width * lengths**2))


def is_emulated(precision: str, device: str) -> bool:
    """Return whether this CPU has no unit for a precision; it then emulates bf16, which is far slower."""
    capabilities = torch.cpu.get_capabilities()
    has_unit = capabilities.get("amx_tile") or capabilities.get("avx512_bf16")
    return device == "cpu" and precision == "bf16" and not has_unit


def measure_products(precision: str, device: str) -> float:
    """Return the operations a second of plain matrix products of the base shape, on all cores or the GPU."""
    a, b = (torch.randint(-9, 9, size, device=device).to(DTYPES[precision]) for size in ((2048, 768), (768, 3072)))
    multiply = torch._int_mm if precision == "int8" else torch.matmul
    result = multiply(a, b)  # reused, since new memory takes time
    n_products, seconds = 200 if device == "cuda" else 1, []  # a GPU computes one faster than Python asks for it
    ended = time.perf_counter() + 1  # a shared CPU may be twice as fast for tenths of a second
    while len(seconds) < 25 or time.perf_counter() < ended:
        started = time.perf_counter()
        for _ in range(n_products):
            multiply(a, b, out=result)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / n_products)
    return 2 * 2048 * 768 * 3072 / statistics.median(seconds)


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="base", help="base is indobert-base-p1's")
    parser.add_argument("--data_dir", help="folder of SmSA; found as scripts/finetune.py does if not given")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contender, in turn")
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    return parser


def publish(args: argparse.Namespace, device: str, facts: str, skipped: list[str], titles: list[str],
            rows: list[list[str]]) -> None:  # fmt: skip
    """Print command, machine and figures as Markdown, and write them to `--output` where it is given."""
    hardware, units = describe_hardware(device), torch.cpu.get_capabilities()
    known = [name for name in ("avx2", "avx512_vnni", "avx512_bf16", "amx_tile") if units.get(name)]
    processor = ", ".join(hardware["gpus"]) or f"{hardware['cpu']} ({', '.join(known)})"
    facts = f"transformers {transformers.__version__}; shape `{args.shape}`, {facts}. Medians of {args.repeats}."
    machine = f"{processor}, {hardware['n_threads']} threads, torch {torch.__version__}, {facts}"
    lines = [f"$ python {shlex.join(sys.argv)}", "", machine]
    lines += [f"{name}: skipped, as this CPU has no unit for bf16." for name in skipped]
    lines += ["", *(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))]
    print("\n".join(lines))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
