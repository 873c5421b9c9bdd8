"""A labelled file and some systems -> report.json, report.md and pictures, written all together or not at all."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from smsa.data.datasets import load_splits
from smsa.errors import UserError
from smsa.evaluation import figures
from smsa.evaluation.baselines import DESCRIPTION
from smsa.evaluation.perturbations import REWRITINGS, is_smsa_style, rewrite
from smsa.evaluation.rendering import render
from smsa.evaluation.statistics import (
    LEVEL,
    N_RESAMPLES,
    SCORES,
    apply_temperature,
    bootstrap,
    compare,
    count_confusion,
    interval,
    measure_calibration,
    resample,
    score_confusion,
    score_labels,
)
from smsa.evaluation.systems import ModelSystem, System, name_labels
from smsa.files import hash_file, publish, staged, write_json
from smsa.models.devices import describe_environment

REPORT = "report.json"
N_MISTAKES = 20
# The tutorial opens with these: who only counts words does not see that the second tells of a disappointment.
OPENING_SENTENCES = (
    "Kita pergi ke Bali untuk berlibur. Sungguh menakjubkan!",
    "Tetanggaku memenangkan undian berhadiah! Tapi sayangnya aku belum beruntung.",
)
OPENING_LABELS = ("positive", "negative")
LENGTHS = ((1, 10), (11, 25), (26, None))  # words


@dataclass(frozen=True)
class LabelledFile:
    """Rows to judge by: n_texts texts, their gold label ids and lines, and which of them stand in train."""

    path: Path
    labels: tuple[str, ...]
    texts: list[str]
    gold: np.ndarray
    lines: np.ndarray
    seen: np.ndarray | None

    @classmethod
    def read(
        cls,
        path: str | Path,
        labels: tuple[str, ...],
        text_column: str = "text",
        label_column: str = "label",
        train_path: str | Path | None = None,
    ) -> "LabelledFile":
        """Read a file, as `load_splits` does, which also says what is refused."""
        rows = load_splits({"data": path}, labels, text_column, label_column)["data"]
        texts, seen = list(rows["text"]), None
        if train_path is not None:
            train_texts = set(load_splits({"train": train_path}, labels, text_column, label_column)["train"]["text"])
            seen = np.array([text in train_texts for text in texts], dtype=bool)
        return cls(Path(path), labels, texts, np.array(rows["label"]), np.array(rows["line"]), seen)

    def slices(self) -> dict[str, np.ndarray]:
        """Get masks of shape (n_texts,) by length in words, by style and, where train is known, by having been seen."""
        n_words = np.array([len(text.split()) for text in self.texts])
        masks = {
            f"{low} to {high} words" if high else f"{low} words or more": (n_words >= low)
            & (n_words <= (high or np.inf))
            for low, high in LENGTHS
        }
        is_plain = np.array([is_smsa_style(text) for text in self.texts])
        masks |= {"in SmSA's style": is_plain, "raw": ~is_plain}
        if self.seen is not None:
            masks |= {"also in train": self.seen, "not in train": ~self.seen}
        return masks


def judge(name: str, system: System, data: LabelledFile, names: dict[str, str] | None = None, seed: int = 0) -> dict:
    """Get all that report.json says of one system, as plain values, and its `probabilities` in the file's order.

    Args:
        name: how the report calls it.
        system: what labels the texts.
        data: what it is judged by.
        names: as in `name_labels`.
        seed: of the bootstrap.

    Raises:
        ValueError: if the system's labels are not those of the file.
    """
    named = name_labels(name, system.labels, names or {})
    if set(named) != set(data.labels):
        raise UserError(
            f"{name} has the labels {', '.join(named)}, {data.path} is read with {', '.join(data.labels)}: they do not "
            "match. Give --label_map, or another model."
        )
    order = [named.index(label) for label in data.labels]
    probabilities = system.predict(data.texts)[:, order]  # (n_texts, n_labels)
    opening = system.predict(list(OPENING_SENTENCES))[:, order]
    judged = _describe_answers(name, system.kind, data, probabilities, opening, seed)
    return judged | ({"engine": system.describe_engine()} if isinstance(system, ModelSystem) else {})


def judge_calibrated(name: str, judged: dict, data: LabelledFile, temperature: float, seed: int = 0) -> dict:
    """Get the judgement of a system whose logits are divided by a temperature, from that of the system itself.

    Raises:
        ValueError: if a label changed, which only a tie can do that rounding breaks the other way.
    """
    opening = np.array([list(answer["probabilities"].values()) for answer in judged["opening_sentences"]])
    probabilities = apply_temperature(judged["probabilities"], temperature)
    if (probabilities.argmax(-1) != judged["probabilities"].argmax(-1)).any():
        raise UserError(f"{judged['name']} has ties between labels, which a temperature of {temperature:.3f} breaks.")
    opening = apply_temperature(opening, temperature)
    answers = _describe_answers(name, judged["kind"], data, probabilities, opening, seed)
    return answers | {key: judged[key] for key in ("engine", "robustness") if key in judged}


def _describe_answers(
    name: str, kind: str, data: LabelledFile, probabilities: np.ndarray, opening: np.ndarray, seed: int
) -> dict:
    predicted, n_labels = probabilities.argmax(-1), len(data.labels)
    confusion = count_confusion(data.gold, predicted, n_labels)
    scores, ends = score_confusion(confusion), bootstrap(confusion, seed, labels=data.labels)
    by_label = score_labels(confusion)
    calibration = measure_calibration(data.gold, probabilities)
    return {
        "name": name,
        "kind": kind,
        "scores": {score: _bounded(scores[score], ends[score]) for score in SCORES},
        "labels": {
            label: {
                "f1": _bounded(by_label["f1"][i], ends[f"f1_{label}"]),
                "recall": float(by_label["recall"][i]),
                "precision": float(by_label["precision"][i]),
                "n": int(confusion[i].sum()),
            }
            for i, label in enumerate(data.labels)
        },
        "confusion": confusion.tolist(),
        "calibration": {
            "expected_calibration_error": calibration.error,
            "bins": [
                {"confidence": float(c), "accuracy": float(a), "n": int(n)}
                for c, a, n in zip(calibration.confidence, calibration.accuracy, calibration.n_texts, strict=True)
                if n
            ],
        },
        "slices": {
            title: _score_slice(count_confusion(data.gold[mask], predicted[mask], n_labels), seed)
            for title, mask in data.slices().items()
            if mask.any()
        },
        "opening_sentences": [
            {
                "text": text,
                "gold": gold,
                "label": data.labels[row.argmax()],
                "probabilities": dict(zip(data.labels, row.tolist(), strict=True)),
            }
            for text, gold, row in zip(OPENING_SENTENCES, OPENING_LABELS, opening, strict=True)
        ],
        "mistakes": _find_mistakes(data, probabilities),
        "probabilities": probabilities,
    }


def _score_slice(confusion: np.ndarray, seed: int) -> dict:
    """Macro F1 over the labels that the slice has: one that it lacks would count as 0."""
    present = confusion.sum(-1) > 0
    f1, resampled = score_labels(confusion)["f1"], score_labels(resample(confusion, seed))["f1"]
    return {
        "n": int(confusion.sum()),
        "n_labels": int(present.sum()),
        "f1": _bounded(f1[present].mean(), interval(resampled[:, present].mean(-1))),
    }


def measure_robustness(
    judged: dict, system: System, data: LabelledFile, names: dict[str, str] | None = None, seed: int = 0
) -> dict:
    """Get macro F1 of a system on the same texts as people would write them: by each of `REWRITINGS`, and by all.

    Args:
        judged: what `judge` says of the system.
        system, data, names: as in `judge`.
        seed: of the rewriting.
    """
    named = name_labels(judged["name"], system.labels, names or {})
    order = [named.index(label) for label in data.labels]
    found = {"as it is": judged["scores"]["f1"]["value"]}
    for kind, rewritings in {**{name: (name,) for name in REWRITINGS}, "all of them": tuple(REWRITINGS)}.items():
        predicted = system.predict(rewrite(data.texts, rewritings, seed))[:, order].argmax(-1)
        found[kind] = float(score_confusion(count_confusion(data.gold, predicted, len(data.labels)))["f1"])
    return found


def _bounded(value: float, ends: tuple[float, float]) -> dict[str, float]:
    return {"value": float(value), "low": ends[0], "high": ends[1]}


def _find_mistakes(data: LabelledFile, probabilities: np.ndarray) -> list[dict]:
    """The most confident wrong answers first."""
    predicted, confidence = probabilities.argmax(-1), probabilities.max(-1)
    wrong = np.flatnonzero(predicted != data.gold)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:N_MISTAKES]
    return [
        {
            "file": data.path.name,
            "line": int(data.lines[i]),
            "gold": data.labels[data.gold[i]],
            "label": data.labels[predicted[i]],
            "score": float(confidence[i]),
            "text": data.texts[i],
        }
        for i in wrong
    ]


def describe(data: LabelledFile, judgements: list[dict], seed: int = 0) -> dict:
    """Get the content of report.json: the file, each judgement, and each pair of systems compared."""
    predicted = {judgement["name"]: judgement["probabilities"].argmax(-1) for judgement in judgements}
    devices = [judgement["engine"]["device"] for judgement in judgements if "engine" in judgement]
    comparisons = []
    for a, b in combinations(predicted, 2):
        compared = compare(data.gold, predicted[a], predicted[b], len(data.labels), seed)
        comparisons.append(
            {
                "a": a,
                "b": b,
                "differences": {
                    score: _bounded(compared.differences[score], compared.intervals[score]) for score in SCORES
                },
                "mcnemar": {
                    "only_a_right": compared.only_a_right,
                    "only_b_right": compared.only_b_right,
                    "p_value": compared.p_value,
                },
                "sentence": compared.describe(a, b),
            }
        )
    return {
        "data": {
            "file": str(data.path),
            "sha256": hash_file(data.path)[0],
            "n_texts": len(data.texts),
            "labels": {label: int((data.gold == i).sum()) for i, label in enumerate(data.labels)},
        },
        "intervals": {
            "level": LEVEL,
            "method": "stratified percentile bootstrap",
            "resamples": N_RESAMPLES,
            "seed": seed,
        },
        "systems": [{key: judgement[key] for key in judgement if key != "probabilities"} for judgement in judgements],
        "comparisons": comparisons,
        "environment": describe_environment(next(iter({*devices} - {"cpu"}), "cpu")),
    }


def write_report(
    data: LabelledFile,
    judgements: list[dict],
    output_dir: str | Path,
    seed: int = 0,
    temperature: float | None = None,
) -> dict:
    """Write report.json, report.md and a PNG for each picture into a folder; either all of them appear or none.

    Args:
        data, judgements: the file, and what `judge` says of each system.
        output_dir: the folder; new, empty, or an earlier report.
        seed: of the bootstrap.
        temperature: what the last system, a calibrated one, divides logits by.

    Returns:
        The content of report.json.

    Raises:
        FileExistsError: if the folder holds anything but an earlier report.
    """
    output_dir = Path(output_dir)
    require_report_folder(output_dir)
    report = describe(data, judgements, seed) | ({} if temperature is None else {"temperature": temperature})
    output_dir.mkdir(parents=True, exist_ok=True)
    with staged(output_dir) as staging:
        pictures = figures.draw(report, staging)
        (staging / "report.md").write_text(render(report, pictures), encoding="utf-8")
        write_json(report, staging / REPORT)
        for name in set(figures.PICTURES) - set(pictures):  # of an earlier report
            (output_dir / name).unlink(missing_ok=True)
        publish(staging, output_dir, last=REPORT)
    return report


def require_report_folder(output_dir: str | Path) -> None:
    """Refuse an output folder that holds something other than an earlier report, as those of baselines do.

    Raises:
        FileExistsError: with the way out.
    """
    output_dir = Path(output_dir)
    is_report = (output_dir / REPORT).is_file() and not (output_dir / DESCRIPTION).exists()
    if output_dir.exists() and not is_report and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} is not empty and holds no earlier report: choose another --output.")
