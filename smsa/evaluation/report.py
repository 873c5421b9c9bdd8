"""A labelled file and some systems -> report.json, report.md and pictures, written all together or not at all."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix
from transformers.hf_argparser import HfArg

from smsa.data.datasets import REJECTS, ReadingArguments, find_smsa, load_splits, write_rejects
from smsa.data.formats import BadRow
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.evaluation import figures, statistics
from smsa.evaluation.markdown import TEMPLATES
from smsa.evaluation.perturbations import PERTURBATIONS, is_smsa_style, perturb
from smsa.evaluation.statistics import METRICS, bootstrap, score_present
from smsa.evaluation.systems import System
from smsa.files import RUN_RECORD, hash_file, publish, staged, write_json
from smsa.runtime import describe_environment

logger = logging.getLogger(__name__)

REPORT = "report.json"
# The tutorial opens with these: counting words does not show that the second tells of a disappointment.
OPENING_SENTENCES = {
    "Kita pergi ke Bali untuk berlibur. Sungguh menakjubkan!": "positive",
    "Tetanggaku memenangkan undian berhadiah! Tapi sayangnya aku belum beruntung.": "negative",
}


@dataclass(kw_only=True)
class LabelledFileArguments(ReadingArguments):
    """Which labelled file, and how it is to be read."""

    data: str | None = HfArg(
        default=None,
        help="Labelled file: a table in any format that scripts/predict.py reads; if not given, SmSA's valid.",
    )

    def __post_init__(self) -> None:
        self.data = self.data or str(find_smsa()["valid"])


@dataclass(frozen=True)
class LabelledFile:
    """Rows to evaluate on.

    Attributes:
        labels: their names, in the order of their ids.
        rows: `text`, `label` (its id), `line`, and with a train file `seen`: whether train has the text, too.
        rejects: bad rows, which are excluded.
    """

    path: Path
    labels: tuple[str, ...]
    rows: pd.DataFrame
    rejects: tuple[BadRow, ...] = ()

    @classmethod
    def read(
        cls, path: str | Path, labels: tuple[str, ...], train_path: str | Path | None = None, **reading: object
    ) -> "LabelledFile":
        """Read a file with `load_splits` and its options `reading`; see there for what is refused."""
        rows = load_splits({"data": path}, labels, **reading)["data"].to_pandas()
        if train_path:
            rows["seen"] = rows["text"].isin(_read_texts(Path(train_path), **reading))
        return cls(Path(path), labels, rows, tuple(reading.get("rejects") or ()))

    @property
    def texts(self) -> list[str]:
        """The texts in the order of the file."""
        return self.rows["text"].tolist()

    @property
    def gold(self) -> np.ndarray:
        """Gold label ids of shape (n_texts,)."""
        return self.rows["label"].to_numpy()

    def count_confusion(self, predicted: np.ndarray, mask: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return how many texts of `mask` have each gold label (rows) and each predicted label id (columns)."""
        return confusion_matrix(self.gold[mask], predicted[mask], labels=range(len(self.labels)))

    def slices(self) -> dict[str, np.ndarray]:
        """Return masks of shape (n_texts,) by length, by style and, with a train file, by whether it has the text."""
        n_words, is_plain = self.rows["text"].str.split().str.len(), self.rows["text"].map(is_smsa_style)
        masks = {
            "1 to 10 words": n_words <= 10,
            "11 to 25 words": n_words.between(11, 25),
            "26 words or more": n_words > 25,
            "in SmSA's style": is_plain,
            "raw": ~is_plain,
        }
        if "seen" in self.rows:
            masks |= {"also in train": self.rows["seen"], "not in train": ~self.rows["seen"]}
        return {title: mask.to_numpy() for title, mask in masks.items() if mask.any()}


def _read_texts(
    path: Path, text_column: str | None = None, label_column: str = "label", sheet: str | None = None, **_: object
) -> set[str]:
    """Return the texts of a train file; its columns and sheets may have other names than those of the data."""
    # the label column is named only so that it is not taken for the texts
    named = {"text_column": text_column} if text_column else {"label_column": label_column}
    for options in (named | {"sheet": sheet}, named):
        with suppress(UserError):
            source = Source(path, keep_lines=True, **options)
            break
    else:
        source = Source(path, keep_lines=True)
    return {text for chunk in source.chunks() for text in chunk.texts.to_pylist()}


def evaluate(systems: list[System], data: LabelledFile, seed: int = 0, robustness: bool = False) -> dict:
    """Return the content of report.json: the file, each system (also on perturbed texts, if asked), each comparison.

    `seed` is for the bootstrap and the perturbations. Raise a UserError if a system lacks a label that texts have.
    """
    for system in systems:  # check all before the first one predicts, which may take long
        system.find_columns(data.labels, used=data.gold.tolist())
    predictions = [(system, system.predict(data.texts, data.labels)) for system in systems]
    comparisons = []
    for (a, of_a), (b, of_b) in combinations(predictions, 2):
        compared = statistics.compare(data.gold, of_a.argmax(-1), of_b.argmax(-1), len(data.labels), seed)
        sentence = statistics.describe_comparison(a.name, b.name, compared["differences"]["f1"], len(data.texts))
        comparisons.append({"a": a.name, "b": b.name, **compared, "sentence": sentence})
    device = next((system.engine["device"] for system in systems if system.engine), "cpu")  # all systems use the same
    return {
        "data": {
            "file": str(data.path),
            "sha256": hash_file(data.path),
            "n_texts": len(data.texts),
            "labels": {label: int((data.gold == i).sum()) for i, label in enumerate(data.labels)},
        },
        "intervals": statistics.METHOD | {"seed": seed},
        "systems": [evaluate_system(system, data, found, seed, robustness) for system, found in predictions],
        "comparisons": comparisons,
        "environment": describe_environment(device),
    }


def evaluate_system(
    system: System, data: LabelledFile, probabilities: np.ndarray, seed: int = 0, robustness: bool = False
) -> dict:
    """Return a system's part of report.json; `probabilities`, (n_texts, n_labels), are its predictions for `data`."""
    names, predicted = np.array(data.labels), probabilities.argmax(-1)
    confusion = data.count_confusion(predicted)
    scores = bootstrap(confusion, partial(score_present, labels=data.labels), seed)
    slices = {}
    for title, mask in data.slices().items():
        part = data.count_confusion(predicted, mask)
        n_labels = int((part.sum(-1) > 0).sum())
        slices[title] = {"n": int(part.sum()), "n_labels": n_labels, "f1": bootstrap(part, seed=seed)["f1"]}
    rows = data.rows.assign(file=data.path.name, gold=names[data.gold], predicted=names[predicted])
    errors = rows.assign(confidence=probabilities.max(-1))[data.gold != predicted].nlargest(20, "confidence")
    of_opening = system.predict([*OPENING_SENTENCES], data.labels)  # probabilities
    evaluation = {
        "name": system.name,
        "kind": system.kind,
        "metrics": {name: scores[name] for name in METRICS},
        "labels": {
            label: {"f1": scores[f"f1_{label}"], "n": n}
            | {name: scores[f"{name}_{label}"]["value"] for name in ("recall", "precision")}
            for label, n in zip(data.labels, confusion.sum(-1).tolist(), strict=True)
        },
        "confusion": confusion.tolist(),
        "calibration": statistics.measure_calibration(data.gold, probabilities),
        "slices": slices,
        "examples": [
            {"text": text, "gold": gold, "predicted": names[row.argmax()].item()}
            | {"probabilities": dict(zip(data.labels, row.tolist(), strict=True))}
            for (text, gold), row in zip(OPENING_SENTENCES.items(), of_opening, strict=True)
        ],
        "errors": errors[["file", "line", "gold", "predicted", "confidence", "text"]].to_dict("records"),
    }
    is_present = confusion.sum(-1) > 0
    if not is_present.all():  # predictions limited to the labels of the file
        among = bootstrap(data.count_confusion(np.where(is_present, probabilities, -1).argmax(-1)), seed=seed)
        evaluation["metrics_without_absent"] = {name: among[name] for name in METRICS}
    if system.engine:
        evaluation["engine"] = system.engine
    if robustness:
        evaluation["robustness"] = {"as it is": scores["f1"]["value"]}
        perturbations = {name: (name,) for name in PERTURBATIONS} | {"all of them": tuple(PERTURBATIONS)}
        for title, combined in perturbations.items():
            perturbed = system.predict(perturb(data.texts, combined, seed), data.labels).argmax(-1)
            evaluation["robustness"][title] = score_present(data.count_confusion(perturbed))["f1"].item()
    return evaluation


def log_report(report: dict) -> None:
    """Log the first tables of report.md, metrics and the F1 of each label, and a line for each comparison."""
    logger.info("\n%s", TEMPLATES.get_template("evaluation/metrics.md.jinja").render(report))
    for compared in report["comparisons"]:
        logger.info("%s", compared["sentence"])


def write_report(
    report: dict, output_dir: str | Path, history: Path | None = None, rejects: Sequence[BadRow] = ()
) -> None:
    """Write report.json, report.md, rejects.jsonl and pictures in place of an earlier report: all of them or none.

    `report` is what `evaluate` returns. `history` is the history.csv of a run, which is drawn, too.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with staged(output_dir) as staging:
        pictures = figures.draw_report(report, staging, history)
        (staging / "report.md").write_text(render_report(report, pictures), encoding="utf-8")
        write_json(report, staging / REPORT)
        write_rejects(rejects, staging)
        replaced = {*figures.PICTURES} if (output_dir / RUN_RECORD).exists() else {*figures.PICTURES, REJECTS}
        for name in replaced - {path.name for path in staging.iterdir()}:  # from an earlier report, not from the run
            (output_dir / name).unlink(missing_ok=True)
        publish(staging, output_dir, last=REPORT)


def render_report(report: dict, pictures: list[str]) -> str:
    """Return the report as Markdown; fractions become per cent."""
    return TEMPLATES.get_template("evaluation/report.md.jinja").render(report, pictures=pictures)
