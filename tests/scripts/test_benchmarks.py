"""The benchmarks run every contender that makes sense on this CPU, and their figures come from what they did."""

import re
import sys

import pytest
from conftest import SAMPLE_DIR, make_model
from processes import run

from benchmarks import models

HAS_BF16 = not models.is_emulated("bf16", "cpu")


def measure(script: str, output, *words: str) -> list[list[str]]:
    """Run a benchmark on the sample; return the rows of its table."""
    given = ["--shape", "small", "--data_dir", SAMPLE_DIR, "--repeats", "1", "--output", output, *words]
    printed = run(sys.executable, f"benchmarks/{script}.py", *given)
    assert output.read_text(encoding="utf-8") in printed, printed
    assert ("bf16: skipped" in printed) == (not HAS_BF16)
    return [line.strip("| ").split(" | ") for line in printed.splitlines() if re.match(r"\| \w", line)]


@pytest.mark.slow
def test_contenders_are_measured_side_by_side(tmp_path):
    training = measure("training", tmp_path / "training.md", "--rows", "64", "--batch_size", "8")
    assert len(training) == (6 if HAS_BF16 else 4)
    for _, precision, speed, _, share, memory in training:
        assert precision in ("fp32", "bf16") and float(speed.replace(",", "")) > 0
        assert 0 <= int(share.rstrip("%")) <= 150 and int(memory.replace(",", "")) > 300
    prediction = measure("prediction", tmp_path / "prediction.md", "--rows", "40")
    assert len(prediction) == (12 if HAS_BF16 else 8)
    for name, speed, _, share, labels, difference in prediction:
        assert float(speed.replace(",", "")) > 0 and int(share.rstrip("%")) <= 150
        assert "fp32" not in name or (labels == "100.00%" and float(difference) < 1e-4)


def test_operations_are_those_of_the_matrix_products():
    # two layers of width 32 and 64 between: per token 2 (4 * 32 * 32 + 2 * 32 * 64) a layer; 4 * 32 a pair of tokens
    by_hand = [2 * (2 * n * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 32 * n * n) for n in (3, 5)]
    assert models.count_operations(make_model(), [[1] * 3, [1] * 5]) == sum(by_hand) / 2
