"""The benchmark of training runs every contender, and its figures come from what they did."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, SAMPLE_DIR


@pytest.mark.slow
def test_every_contender_of_training_is_measured(tmp_path):
    words = ["--rows", "64", "--epochs", "2", "--repeats", "1", "--data_dir", str(SAMPLE_DIR)]
    words += ["--output", str(tmp_path / "result")]
    command = [sys.executable, "benchmarks/training.py", *words, "--per_device_train_batch_size", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads((tmp_path / "result.json").read_text())
    lines = (tmp_path / "result.md").read_text().split("\n")
    assert len(outcomes) == 10 and (tmp_path / "result.png").stat().st_size > 10_000
    for name, [outcome] in outcomes.items():
        _, epoch = outcome["epochs"]
        assert epoch["steps"] > 0 and epoch["valid"] > 0 and outcome["memory"] > 300
        assert (epoch["save"] > 0) == ("loop" not in name)  # loops keep no checkpoints
        row = next(line for line in lines if line.startswith(f"| {name} |"))
        assert row.split("|")[2].strip() == f"{64 / epoch['steps']:,.1f}"  # the first epoch warms up
