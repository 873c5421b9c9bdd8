"""What a run leaves beside the model: predictions, scores, history, and the record of how it was made."""

import copy
import csv
import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from scipy.special import softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from smsa.data.datasets import SMSA_SHA256
from smsa.files import hash_file, write_json
from smsa.models.devices import describe_hardware, describe_versions
from smsa.models.loading import label_names
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.callbacks import epoch_number
from smsa.training.collation import count_tokens, sort_by_length
from smsa.training.trainer import ResumableTrainer, SentimentTrainer

MACRO_SCORES = ("loss", "accuracy", "f1", "recall", "precision")
# Columns of history.csv, by what Trainer's log calls them.
HISTORY = {"learning_rate": "learning_rate"}
HISTORY |= {f"train_{score}": f"train_{score}" for score in MACRO_SCORES}
HISTORY |= {f"eval_{score}": f"valid_{score}" for score in MACRO_SCORES}


def predict_splits(trainer: SentimentTrainer, splits: DatasetDict) -> dict[str, PredictionOutput]:
    """Return what `trainer.predict` does for valid and, where there is one, test, rows in the order of the split.

    Every rank must call it. Texts are predicted by length, which takes half the padding.
    """
    outputs = {}
    for split in [split for split in ("valid", "test") if split in splits]:
        output = trainer.predict(sort_by_length(splits[split]), metric_key_prefix=split)
        places = np.argsort(np.argsort(-count_tokens(splits[split]), stable=True))  # where each text came
        outputs[split] = output._replace(predictions=output.predictions[places], label_ids=output.label_ids[places])
    return outputs


def collect_metrics(trainer: SentimentTrainer, outputs: dict[str, PredictionOutput]) -> dict[str, object]:
    """Return the `epoch` that was kept, the scores of `train`, made while it trained, and those of `outputs`."""
    trained = [entry for entry in trainer.state.log_history if "train_f1" in entry]
    state, is_best = trainer.state, trainer.args.load_best_model_at_end
    kept_step = state.best_global_step if is_best and state.best_global_step else state.global_step
    kept = next((entry for entry in trained if entry["step"] == kept_step), trained[-1])
    metrics = {"epoch": epoch_number(kept["epoch"]), "train": _without_prefix(kept, "train", trainer.labels)}
    return metrics | {
        split: _without_prefix(output.metrics, split, trainer.labels) for split, output in outputs.items()
    }


def _without_prefix(metrics: dict[str, float], prefix: str, labels: tuple[str, ...]) -> dict[str, float]:
    """Return the scores of one split without their prefix: macro scores first, then those of each label."""
    names = [*MACRO_SCORES, *(f"{score}_{label}" for label in labels for score in ("f1", "recall", "precision", "n"))]
    return {name: metrics[f"{prefix}_{name}"] for name in names}


def history_table(log_history: list[dict[str, float]], columns: dict[str, str] = HISTORY) -> pd.DataFrame:
    """Return one row an epoch: `epoch`, and what the log has under the keys of `columns`, named by their values.

    Args:
        log_history: `trainer.state.log_history`.
        columns: what is asked of it.
    """
    # the entry of the end of a run has a train_loss of another meaning
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" not in entry:
            row = rows.setdefault(epoch_number(entry["epoch"]), {})  # where a run was lengthened, one comes twice
            row |= {name: entry[logged] for logged, name in columns.items() if logged in entry}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(columns.values()))
    return table.rename_axis("epoch").sort_index().reset_index()


def predict_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[str, ...]
) -> list[dict[str, object]]:
    """Return the `text`, the model's `label`, its `score` and `p_<label>` for each text, one text at a time."""
    labels, examples = label_names(model.config.id2label), []
    model.eval()
    for text in texts:
        with torch.inference_mode():
            logits = model(**tokenizer(text, truncation=True, return_tensors="pt").to(model.device)).logits[0]
        probabilities = dict(zip(labels, logits.double().softmax(-1).tolist(), strict=True))
        label = max(probabilities, key=probabilities.get)
        shares = {f"p_{name}": share for name, share in probabilities.items()}
        examples.append({"text": text, "label": label, "score": probabilities[label], **shares})
    return examples


def write_predictions(output: PredictionOutput, texts: list[str], labels: tuple[str, ...], path: str | Path) -> None:
    """Write `text`, `gold`, `label` and `p_<label>` for each text, in order, as CSV.

    Every text is quoted: pandas would leave a bare CR open, which splits the row.
    """
    probabilities = softmax(output.predictions.astype(np.float64), axis=-1)  # (n_texts, n_labels)
    names = np.array(labels)
    table = {"text": texts, "gold": names[output.label_ids], "label": names[probabilities.argmax(-1)]}
    table |= {f"p_{label}": probabilities[:, i] for i, label in enumerate(labels)}
    pd.DataFrame(table).to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def write_submission(output: PredictionOutput, labels: tuple[str, ...], path: str | Path) -> None:
    """Write the benchmark's submission file: `index,label`, index from 0."""
    table = pd.DataFrame({"label": np.array(labels)[output.predictions.argmax(-1)]})
    table.rename_axis("index").to_csv(path)


def label_table(scores: dict[str, float], labels: tuple[str, ...]) -> str:
    """Return precision, recall, F1 and count of each label and their macro mean as aligned text, in per cent."""
    lines = [f"{'':12}{'precision':>10}{'recall':>10}{'F1':>10}{'texts':>8}"]
    for label in labels:
        cells = "".join(f"{100 * scores[f'{score}_{label}']:>10.2f}" for score in ("precision", "recall", "f1"))
        lines.append(f"{label:12}{cells}{scores[f'n_{label}']:>8,}")
    cells = "".join(f"{100 * scores[score]:>10.2f}" for score in ("precision", "recall", "f1"))
    lines.append(f"{'macro':12}{cells}{sum(scores[f'n_{label}'] for label in labels):>8,}")
    return "\n".join([*lines, f"accuracy {100 * scores['accuracy']:.2f}, loss {scores['loss']:.4f}"])


def describe_data(splits: DatasetDict, files: dict[str, Path]) -> dict[str, dict]:
    """Return for each split its `file`, `sha256`, `n_texts`, and whether it `is_smsa`."""
    data = {}
    for split, path in files.items():
        sha256, _ = hash_file(path)
        is_smsa = sha256 == SMSA_SHA256[split]
        data[split] = {"file": str(path), "sha256": sha256, "n_texts": len(splits[split]), "is_smsa": is_smsa}
    return data


def describe_run(trainer: ResumableTrainer, arguments: tuple) -> dict[str, object]:
    """Return the record of a run as plain values: resolved options, precision, versions, hardware and commit."""
    precision, history = trainer.accelerator.mixed_precision, trainer.state.log_history
    # over all parts of a run that was resumed; of pre-training, which keeps no epochs, of the last part
    seconds = sum(entry.get("epoch_runtime", 0) for entry in history)
    seconds = seconds or max(entry.get("train_runtime", 0) for entry in history)
    return {
        "arguments": {
            # to_dict is Trainer's own, and masks tokens
            type(group).__name__: group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
            for group in arguments
        },
        "settings": trainer.settings,
        "seed": trainer.args.seed,
        "model_commit": getattr(trainer.model.config, "_commit_hash", None),  # where it came from the Hub
        "precision_in_effect": "fp32" if precision == "no" else precision,
        "world_size": trainer.args.world_size,
        "n_parameters": trainer.model.num_parameters(),
        "train_runtime_seconds": seconds,
        "versions": describe_versions(),
        "hardware": describe_hardware(trainer.args.device.type),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, `-dirty` if changed; None without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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
    write_json(summary, output_dir / "seeds.json")
    return summary


def seeds_table(summary: dict) -> str:
    """Return macro F1, accuracy and F1 of each label on valid, by seed, with mean and standard deviation, as text."""
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
