"""What a run leaves beside the model: scores, history, curves, predictions and the record of how it was made."""

import csv
import dataclasses
import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from scipy.special import softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from smsa.data.datasets import SMSA_SHA256
from smsa.data.labels import label_names
from smsa.data.normaliser import has_normaliser
from smsa.distributed import on_first
from smsa.evaluation.figures import draw_history
from smsa.evaluation.statistics import bootstrap, count_confusion, measure_calibration
from smsa.files import dump_json, hash_file, publish, staged, write_json, write_whole
from smsa.models.devices import describe_hardware, describe_versions
from smsa.models.loading import load_classifier
from smsa.pretraining.corpus import Source
from smsa.pretraining.trainer import MaskedTrainer
from smsa.sharing.card import (
    CARD,
    EXAMPLES,
    OURS,
    describe_base,
    is_renewable,
    read_card,
    render_card,
)
from smsa.training.callbacks import epoch_number
from smsa.training.checkpointing import RUN_RECORD, explain_failure
from smsa.training.resumable import ResumableTrainer
from smsa.training.trainer import SentimentTrainer

logger = logging.getLogger(__name__)

MACRO_SCORES = ("loss", "accuracy", "f1", "recall", "precision")
# Columns of history.csv, by what Trainer's log calls them.
HISTORY = {"learning_rate": "learning_rate"}
HISTORY |= {f"train_{score}": f"train_{score}" for score in MACRO_SCORES}
HISTORY |= {f"eval_{score}": f"valid_{score}" for score in MACRO_SCORES}
PRETRAINING_HISTORY = {
    "learning_rate": "learning_rate",
    "eval_loss": "held_out_loss",
    "eval_masked_accuracy": "held_out_masked_accuracy",
}


def history_table(log_history: list[dict[str, float]], columns: dict[str, str] = HISTORY) -> pd.DataFrame:
    """Get one row an epoch: `epoch`, and what the log has under the keys of `columns`, named by their values.

    Args:
        log_history: `trainer.state.log_history`.
        columns: what is asked of it: `HISTORY` of fine-tuning, or `PRETRAINING_HISTORY`.
    """
    # the entry of the end of a run has a train_loss of another meaning
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" not in entry:
            row = rows.setdefault(epoch_number(entry["epoch"]), {})  # where a run was lengthened, one comes twice
            row |= {name: entry[logged] for logged, name in columns.items() if logged in entry}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(columns.values()))
    return table.rename_axis("epoch").sort_index().reset_index()


def measure_certainty(label_ids: np.ndarray, logits: np.ndarray, labels: tuple[str, ...]) -> dict[str, object]:
    """Get how far the scores of a split may be trusted, as plain values.

    Args:
        label_ids: gold label ids of shape (n_texts,).
        logits: of shape (n_texts, n_labels).
        labels: label names in the order of their ids.

    Returns:
        `intervals`: the ends of the 95 % interval of accuracy, the macro scores and `f1_<label>`, by stratified
        bootstrap; `confusion`: texts by gold label (rows) and given label; `expected_calibration_error`. Fractions.
    """
    confusion = count_confusion(label_ids, logits.argmax(-1), len(labels))
    return {
        "intervals": bootstrap(confusion, labels=labels),
        "confusion": confusion.tolist(),
        "expected_calibration_error": measure_calibration(label_ids, softmax(logits.astype(np.float64), axis=-1)).error,
    }


def answer_examples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, object]]:
    """Get the model's `label`, its `score` and `p_<label>` for each `text` of `EXAMPLES`, one text at a time."""
    labels, answers = label_names(model.config.id2label), []
    model.eval()
    for text in EXAMPLES:
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt").to(model.device)).logits[0]
        probabilities = dict(zip(labels, logits.double().softmax(-1).tolist(), strict=True))
        label = max(probabilities, key=probabilities.get)
        shares = {f"p_{name}": share for name, share in probabilities.items()}
        answers.append({"text": text, "label": label, "score": probabilities[label], **shares})
    return answers


def update_card(folder: str | Path) -> None:
    """Let metrics.json and the card of a finished run say what the model answers now that it has been changed.

    A folder of another origin, or a card that its owner has taken over, is left alone.
    """
    folder = Path(folder)
    if not is_renewable(folder):
        return
    metrics = json.loads((folder / "metrics.json").read_bytes())
    metrics["examples"] = answer_examples(*load_classifier(folder))
    write_whole(folder / "metrics.json", dump_json(metrics))
    write_whole(folder / CARD, render_card(folder, str(folder), read_card(folder)).encode())


def predictions_table(
    texts: list[str], label_ids: np.ndarray, logits: np.ndarray, labels: tuple[str, ...]
) -> pd.DataFrame:
    """Get `text`, `gold`, `label` and `p_<label>` for each text, in the order given.

    Args:
        texts: n_texts strings.
        label_ids: gold label ids of shape (n_texts,).
        logits: of shape (n_texts, n_labels).
        labels: label names in the order of their ids.
    """
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    names = np.array(labels)
    table = pd.DataFrame({"text": texts, "gold": names[label_ids], "label": names[logits.argmax(-1)]})
    return table.assign(**{f"p_{label}": probabilities[:, i] for i, label in enumerate(labels)})


def write_predictions(table: pd.DataFrame, path: str | Path) -> None:
    """Write a predictions table as CSV, every text quoted: pandas would leave a bare CR open, which splits the row."""
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def write_submission(table: pd.DataFrame, path: str | Path) -> None:
    """Write the benchmark's submission file: `index,label`, index from 0."""
    table[["label"]].rename_axis("index").to_csv(path)


def label_table(scores: dict[str, float], labels: tuple[str, ...]) -> str:
    """Get precision, recall, F1 and count of each label and their macro mean as aligned text, in per cent."""
    lines = [f"{'':12}{'precision':>10}{'recall':>10}{'F1':>10}{'texts':>8}"]
    for label in labels:
        cells = "".join(f"{100 * scores[f'{score}_{label}']:>10.2f}" for score in ("precision", "recall", "f1"))
        lines.append(f"{label:12}{cells}{scores[f'n_{label}']:>8,}")
    cells = "".join(f"{100 * scores[score]:>10.2f}" for score in ("precision", "recall", "f1"))
    lines.append(f"{'macro':12}{cells}{sum(scores[f'n_{label}'] for label in labels):>8,}")
    return "\n".join([*lines, f"accuracy {100 * scores['accuracy']:.2f}, loss {scores['loss']:.4f}"])


def write_run(trainer: SentimentTrainer, splits: DatasetDict, files: dict[str, Path], arguments: tuple) -> dict:
    """Score valid and test with the trainer's model, and leave the whole run in its output folder.

    Writes the model, its card, metrics.json, history.csv, history.png, predictions_<split>.csv, submission.csv (where
    there is a test split) and run.json; README.md describes them. Every process must call it; the main one writes.

    Args:
        trainer: after `train()`.
        splits: encoded rows, with their texts.
        files: the file of each split.
        arguments: the arguments objects of the run, for run.json.

    Returns:
        What metrics.json holds: the `epoch` that was kept, the scores of `train` (made while that epoch trained), those
        of `valid` and `test` with what `measure_certainty` gets, and the model's answers to `examples`.
    """
    labels = trainer.labels
    history = trainer.state.log_history
    trained = [entry for entry in history if "train_f1" in entry]
    kept_step = trainer.state.best_global_step if trainer.args.load_best_model_at_end else trainer.state.global_step
    kept = next((entry for entry in trained if entry["step"] == kept_step), trained[-1])
    metrics = {"epoch": epoch_number(kept["epoch"]), "train": _scores_of_split(kept, "train", labels)}
    predictions = {}
    for split in [split for split in ("valid", "test") if split in splits]:
        output = trainer.predict(splits[split], metric_key_prefix=split)
        metrics[split] = _scores_of_split(output.metrics, split, labels)
        metrics[split] |= measure_certainty(output.label_ids, output.predictions, labels)
        predictions[split] = predictions_table(splits[split]["text"], output.label_ids, output.predictions, labels)

    def write_files(staging: Path) -> dict:
        metrics["examples"] = answer_examples(trainer.model, trainer.processing_class)
        for split, table in predictions.items():
            write_predictions(table, staging / f"predictions_{split}.csv")
        if "test" in predictions:
            write_submission(predictions["test"], staging / "submission.csv")
        write_json(metrics, staging / "metrics.json")
        epochs = history_table(history)
        epochs.to_csv(staging / "history.csv", index=False)
        draw_history(epochs, metrics["epoch"], staging / "history.png")
        return describe_run(trainer, splits, files, arguments) | {"normalised": has_normaliser(staging)}

    _publish_run(trainer, write_files)
    return metrics


def _publish_run(trainer: ResumableTrainer, write_files: Callable[[Path], dict]) -> None:
    """Leave the model, what `write_files` writes, the card, and the record that it returns, which comes last.

    It is called with a folder beside the place of these files, which has the model, on the main process alone.
    """
    output_dir = Path(trainer.args.output_dir)

    def write() -> None:
        with staged(output_dir) as staging:
            trainer.save_model(staging)
            record = write_files(staging)
            outputs = sorted([CARD, *(path.name for path in staging.iterdir())])
            write_json(record | {"outputs": outputs}, staging / RUN_RECORD)
            before = read_card(output_dir)
            if before is None or OURS in before:  # of an earlier result, and not taken over by its owner
                (staging / CARD).write_text(render_card(staging, str(output_dir), before), encoding="utf-8")
            publish(staging, output_dir, last=RUN_RECORD)
        trainer.checkpoints.rotate(n_kept=1)

    with explain_failure("The result", output_dir):
        on_first(write)


def _scores_of_split(metrics: dict[str, float], prefix: str, labels: tuple[str, ...]) -> dict[str, float]:
    """Scores of one split without their prefix: macro scores first, then those of each label."""
    names = [*MACRO_SCORES, *(f"{score}_{label}" for label in labels for score in ("f1", "recall", "precision", "n"))]
    return {name: metrics[f"{prefix}_{name}"] for name in names}


def describe_run(
    trainer: SentimentTrainer, splits: DatasetDict, files: dict[str, Path], arguments: tuple
) -> dict[str, object]:
    """Get the record of a run as plain values: resolved options, precision, data, versions, hardware and commit."""
    return describe_training(trainer, arguments) | {
        "labels": list(trainer.labels),
        "class_weights": None if trainer.class_weights is None else trainer.class_weights.tolist(),
        "base_model": describe_base(trainer.checkpoints.settings["model_name_or_path"]),
        "data": {
            split: {
                "file": str(path),
                "sha256": sha256,
                "n_texts": len(splits[split]),
                "is_smsa": sha256 == SMSA_SHA256[split],
            }
            for split, path, sha256 in ((split, path, hash_file(path)[0]) for split, path in files.items())
        },
    }


def describe_training(trainer: ResumableTrainer, arguments: tuple) -> dict[str, object]:
    """Get what the record of any run says, but for its data."""
    precision = trainer.accelerator.mixed_precision
    return {
        "arguments": {
            # to_dict is Trainer's own, and masks tokens
            name: group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
            for name, group in ((type(group).__name__, group) for group in arguments)
        },
        "seed": trainer.args.seed,
        "model_commit": getattr(trainer.model.config, "_commit_hash", None),  # where it came from the Hub
        "precision_in_effect": "fp32" if precision == "no" else precision,
        "n_processes": trainer.args.world_size,
        "n_parameters": trainer.model.num_parameters(),
        "train_runtime_seconds": trainer.stopwatch.seconds(),
        "settings": trainer.checkpoints.settings,
        "versions": describe_versions(),
        "hardware": describe_hardware(trainer.args.device.type),
        "git_commit": _git_commit(),
    }


def write_encoder(trainer: MaskedTrainer, sources: list[Source], arguments: tuple) -> dict[str, object]:
    """Leave a pre-trained encoder in the output folder of its run: model, card, metrics.json, history.csv, run.json.

    Every process must call it; the main one writes.

    Args:
        trainer: after `train()`.
        sources: what it was trained on.
        arguments: the arguments objects of the run, for run.json.

    Returns:
        What metrics.json holds: `epoch`, `tokens_seen` (word pieces, each time they were seen), and `held_out`: `loss`
        (mean cross entropy of the masked pieces, in nats) and `masked_accuracy`.
    """
    state = trainer.state
    scores = trainer.evaluate()
    held_out = {name: scores[f"eval_{name}"] for name in ("loss", "masked_accuracy")}
    metrics = {"epoch": state.epoch, "tokens_seen": trainer.count_tokens(), "held_out": held_out}
    name = trainer.checkpoints.settings["model_name_or_path"]
    base = {"kind": "new", "name": "new", "license": None} if name == "new" else describe_base(name)
    data = {
        source.name: {"weight": source.weight, "sha256": source.sha256, "n_texts": len(source.texts)}
        for source in sources
    }

    def write_files(staging: Path) -> dict:
        write_json(metrics, staging / "metrics.json")
        history_table(state.log_history, PRETRAINING_HISTORY).to_csv(staging / "history.csv", index=False)
        return describe_training(trainer, arguments) | {"base_model": base, "data": data}

    _publish_run(trainer, write_files)
    return metrics


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, `-dirty` where it was changed; None if there is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
