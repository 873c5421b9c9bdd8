"""The benchmarks run every contender that makes sense on this CPU, and their figures come from what they did."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SAMPLE_DIR, make_model

sys.path.insert(0, str(ROOT / "benchmarks"))

import models  # noqa: E402

HAS_BF16 = not models.is_emulated("bf16", "cpu")


def measure(script: str, output, *words: str) -> dict[str, list[str]]:
    """Run a benchmark on the sample; return the cells of its table by contender."""
    command = [sys.executable, f"benchmarks/{script}.py", "--shape", "small", "--data_dir", str(SAMPLE_DIR)]
    command += ["--repeats", "1", "--output", str(output), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = output.read_text(encoding="utf-8")
    assert text in done.stdout and ("bf16: skipped" in text) == (not HAS_BF16)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \w", line)]
    return {name: cells for name, *cells in rows}


@pytest.mark.slow
def test_training_is_measured_side_by_side(tmp_path):
    table = measure("training", tmp_path / "training.md", "--rows", "64", "--batch_size", "8")
    assert len(table) == (6 if HAS_BF16 else 4) and {"plain loop, fp32", "Trainer, fp32", "smsa"} <= set(table)
    for precision, rows_per_second, _, share, memory in table.values():
        assert precision in ("fp32", "bf16") and float(rows_per_second.replace(",", "")) > 0
        assert 0 <= int(share.rstrip("%")) <= 150 and int(memory.replace(",", "")) > 300


@pytest.mark.slow
def test_prediction_is_measured_side_by_side(tmp_path):
    table = measure("prediction", tmp_path / "prediction.md", "--rows", "40")
    assert len(table) == (12 if HAS_BF16 else 8)
    for name, (rows_per_second, _, share, labels, difference) in table.items():
        assert float(rows_per_second.replace(",", "")) > 0 and int(share.rstrip("%")) <= 150
        if "fp32" in name:
            assert labels == "100.00%" and float(difference) < 1e-4


def test_bf16_is_skipped_only_where_a_cpu_has_no_unit_for_it(monkeypatch):
    for units, emulated in (({}, True), ({"amx_tile": True}, False), ({"avx512_bf16": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        assert models.is_emulated("bf16", "cpu") == emulated
        assert not models.is_emulated("fp32", "cpu") and not models.is_emulated("bf16", "cuda")


def test_operations_are_those_of_the_matrix_products():
    # two layers of width 32 and 64 between: per token 2 (4 * 32 * 32 + 2 * 32 * 64) a layer; 4 * 32 a pair of tokens
    by_hand = [2 * (2 * n * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 32 * n * n) for n in (3, 5)]
    assert models.count_operations(make_model(), [[1] * 3, [1] * 5]) == sum(by_hand) / 2
