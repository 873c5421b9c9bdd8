"""The models that benchmarks run on, and what their matrix products would take alone."""

import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from smsa.data.labels import LABELS, label_maps
from smsa.models.scratch import train_vocabulary

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
        # a shared CPU has been twice as fast for tenths of a second as it was for the rest of a minute
        ended = time.perf_counter() + (0 if device == "cuda" else 2)
        while len(seconds) < 25 or time.perf_counter() < ended:
            started = time.perf_counter()
            for _ in range(n_products):
                product(a, b, out=result)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append((time.perf_counter() - started) / n_products)
        rates[kind] = 2 * 2048 * 768 * 3072 / statistics.median(seconds)
    return rates


class GpuMonitor:
    """How busy the GPU of this process is, by nvidia-smi, until `stop`; of a CPU it knows nothing.

    Each reading is of a period before it: on an H200 with driver 580 the number changes every 0.2 s, and up to 0.35 s
    after work has begun it is still that of the time before.
    """

    LAG = 0.35  # seconds

    def __init__(self, device_type: str):
        self.readings: list[tuple[float, int]] = []  # when it came, by time.perf_counter, and the percentage
        self.process = None
        if device_type == "cuda" and shutil.which("nvidia-smi"):
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
            words = ["nvidia-smi", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "20"]
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.readings.append((time.perf_counter(), int(line)))

    def share_since(self, started: float) -> float | None:
        """Get the share of the time since `started`, by time.perf_counter, in which the GPU ran anything.

        None where that is not known: without a GPU, or after less than `LAG`.
        """
        shares = [percentage for when, percentage in self.readings if when >= started + self.LAG]
        return statistics.mean(shares) / 100 if shares else None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()


def count_operations(model, tokenizer, texts: list[str]) -> float:
    """Get the operations of all matrix products of the encoder, per text, without any pad."""
    width, depth = model.config.hidden_size, model.config.num_hidden_layers
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]])
    # per piece: each weight of the layers; per layer: two products of the pieces with each other
    layers = {name: module for name, module in model.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    n_weights = sum(module.weight.numel() for name, module in layers.items() if not name.startswith("pooler"))
    return float(np.mean(2 * n_weights * lengths + depth * 4 * width * lengths**2))
