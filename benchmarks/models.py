"""The models that benchmarks run on, and what their matrix products would take alone."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from smsa.labels import LABELS, label_maps
from smsa.scratch import train_vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
SHAPES = {
    # indobert-base-p1: 124,443,651 parameters
    "base": {"vocab_size": 50_000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    # recipes/scratch.yaml
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
}


def make_model(shape: str, texts: list[str], vocab_file: Path | None):
    """Get a random BERT and a tokenizer, with the vocabulary in a file or one learned from the texts."""
    if vocab_file:
        vocabulary = {line.rstrip("\n"): i for i, line in enumerate(vocab_file.open(encoding="utf-8"))}
    else:
        vocabulary = train_vocabulary(texts, 8000)
    torch.manual_seed(0)
    values = {"vocab_size": len(vocabulary)} | SHAPES[shape]
    config = BertConfig(**values, intermediate_size=4 * values["hidden_size"], **label_maps(LABELS))
    return BertForSequenceClassification(config).eval(), BertTokenizer(vocab=vocabulary, model_max_length=512)


def measure_products(device: str = "cpu", kinds: Sequence[str] = ("fp32", "bf16", "int8")) -> dict[str, float]:
    """Get the rate of plain matrix products of the base shape, on all of this process's cores or its GPU.

    Returns:
        Operations a second for each of `kinds`.
    """
    rates = {}
    for kind in kinds:
        a, b = (torch.randint(-9, 9, size, device=device).to(DTYPES[kind]) for size in ((2048, 768), (768, 3072)))
        product = torch._int_mm if kind == "int8" else torch.matmul
        result = product(a, b)  # its place, for memory from the system takes time
        n_products, seconds = 200 if device == "cuda" else 1, []  # a GPU does one in less time than it takes to ask
        for _ in range(25):
            started = time.perf_counter()
            for _ in range(n_products):
                product(a, b, out=result)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - started) / n_products)
        rates[kind] = 2 * 2048 * 768 * 3072 / statistics.median(seconds)
    return rates


class GpuMonitor:
    """How busy the GPU of this process is, by nvidia-smi, as long as it runs; of a CPU it knows nothing.

    nvidia-smi takes a moment to start; its first two readings and the last are left out, for they reach beyond.
    """

    def __init__(self, device_type: str):
        self.process = None
        if device_type == "cuda" and shutil.which("nvidia-smi"):
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
            words = ["nvidia-smi", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "50"]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def stop(self) -> float | None:
        """Get the share of the time in which the GPU ran anything; None where that is not known."""
        if self.process is None:
            return None
        self.process.terminate()
        lines = self.process.communicate()[0].split()  # each the percentage of a period before it
        shares = [int(line) for line in lines if line.isdigit()][2:-1]
        return statistics.mean(shares) / 100 if shares else None


def count_operations(model, tokenizer, texts: list[str]) -> float:
    """Get the operations of all matrix products of the encoder, per text, without any pad."""
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]])
    # per piece: each weight of the layers; per layer: two products of the pieces with each other
    layers = {name: module for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    n_weights = sum(module.weight.numel() for name, module in layers.items() if not name.startswith("pooler"))
    return float(np.mean(2 * n_weights * lengths + depth * 4 * width * lengths**2))
