"""The same run by several seeds: each in a folder of its own, and seeds.json over all of them."""

import copy
import json
from pathlib import Path

import pandas as pd

from smsa.files import dump_json, write_whole
from smsa.training.arguments import SentimentTrainingArguments


def split_seeds(args: SentimentTrainingArguments) -> list[SentimentTrainingArguments]:
    """Return the arguments of the run of each seed, `OUTPUT_DIR/seed-<seed>`; those given, where they name one seed."""
    if args.seeds is None:
        return [args]
    runs = []
    for seed in args.seeds:
        run = copy.copy(args)
        run.seeds, run.seed, run.output_dir = None, seed, str(Path(args.output_dir, f"seed-{seed}"))
        runs.append(run)
    return runs


def write_seeds(output_dir: str | Path, seeds: list[int]) -> dict:
    """Write seeds.json: the scores of the finished run of each seed, their mean and their standard deviation.

    Returns:
        What seeds.json holds: `runs` by seed (what metrics.json of each says, with its `folder`); `mean` and `std` by
        split and score. `std` divides by n - 1, and is null for one run.
    """
    output_dir = Path(output_dir)
    folders = {seed: f"seed-{seed}" for seed in seeds}
    runs = {
        seed: {"folder": folder} | json.loads((output_dir / folder / "metrics.json").read_bytes())
        for seed, folder in folders.items()
    }
    summary = {"runs": runs, "mean": {}, "std": {}}
    for split in ("valid", "test"):
        table = pd.DataFrame([run[split] for run in runs.values() if split in run])
        if len(table):
            table = table[[name for name in table.select_dtypes("number") if not name.startswith("n_")]]
            summary["mean"][split] = table.mean().to_dict()
            summary["std"][split] = table.std().round(12).to_dict() if len(table) > 1 else dict.fromkeys(table)
    write_whole(output_dir / "seeds.json", dump_json(summary))
    return summary


def seeds_table(summary: dict) -> str:
    """Return macro F1, accuracy and the F1 of each label on valid, by seed, with mean and standard deviation, as text."""
    of_labels = [score for score in summary["mean"]["valid"] if score.startswith("f1_")]
    scores = ("f1", "accuracy", *of_labels)
    titles = ("macro F1", "accuracy", *(score.removeprefix("f1_") for score in of_labels))
    lines = [f"{'seed':8}" + "".join(f"{title:>12}" for title in titles)]
    rows = {str(seed): run["valid"] for seed, run in summary["runs"].items()}
    if len(rows) > 1:
        rows |= {"mean": summary["mean"]["valid"], "std": summary["std"]["valid"]}
    for name, row in rows.items():
        lines.append(f"{name:8}" + "".join(f"{100 * row[score]:>12.2f}" for score in scores))
    return "\n".join(lines)
