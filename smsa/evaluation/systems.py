"""What is evaluated: fine-tuned models and baselines behind one call, under the label names of the evaluated file."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers.hf_argparser import HfArg

from smsa.cli import require_ranges
from smsa.data.labels import DROP, match_labels, plain_label
from smsa.errors import UserError
from smsa.evaluation.baselines import DESCRIPTION, load_baseline
from smsa.files import RUN_RECORD, hash_file
from smsa.inference.classifier import SentimentClassifier
from smsa.models.loading import BUNDLED, split_names


@dataclass
class EvaluationArguments:
    """Which systems to evaluate, and how."""

    output: str = HfArg(help="Folder for the report and its pictures; replaces an earlier report.")
    model: str | None = HfArg(
        default=None, help="Model folder or name on the Hub (A+B: the mean of two), or folder of a baseline."
    )
    compare: list[str] | None = HfArg(default=None, help="Two or more systems, instead of --model.")
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of --model on the Hub.")
    train_file: str | None = HfArg(default=None, help="Their training file, to score seen texts apart.")
    robustness: bool = HfArg(default=False, help="Also evaluate the texts as people write them; six times as slow.")
    seed: int = HfArg(default=0, help="Seed of the bootstrap and of the perturbations.")

    def __post_init__(self) -> None:
        require_ranges(self)
        if (self.model is None) == (self.compare is None):
            raise UserError("give --model for one system, or --compare for several.")
        if self.compare is not None and (len(self.compare) < 2 or self.model_revision):
            raise UserError("--compare takes two systems or more, and no --model_revision.")
        if Path(self.output).is_file():
            raise UserError(f"--output {self.output} is a file: name a folder for the report.")


@dataclass(frozen=True)
class System:
    """Whatever labels texts.

    Attributes:
        name: what a report calls it.
        kind: `model`, or which baseline.
        labels: its labels under the names of the evaluated file, in the order of its probabilities.
        label_texts: texts -> probabilities of shape (n_texts, n_labels), in that order.
        engine: device, backend and precision of a model, which move the last bits of its logits; None for a baseline.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    label_texts: Callable[[list[str]], np.ndarray]
    engine: dict[str, str] | None = None

    def find_columns(self, labels: tuple[str, ...], used: Iterable[int] = ()) -> list[int]:
        """Return the id in `labels` of each own label, by name or meaning; a UserError if one of `used` is missing."""
        meant, used = match_labels(labels), set(used)
        columns = [meant.get(label, meant.get(plain_label(label))) for label in self.labels]
        lacking, are_clear = used - set(columns), None not in columns and len(set(columns)) == len(columns)
        if are_clear and not lacking:
            return columns
        example = ",".join(f"{label}=..." for label in self.labels)
        if are_clear and lacking < used:  # then dropping the missing labels is enough
            example = ",".join(f"{labels[i]}={DROP}" for i in lacking)
        raise UserError(
            f"{self.name} has the labels {', '.join(self.labels)}, the file is read with {', '.join(labels)}: they "
            f"do not match. Give another model, or map labels: {shlex.quote(f'--label_map={example}')}."
        )

    def predict(self, texts: list[str], labels: tuple[str, ...]) -> np.ndarray:
        """Return probabilities of shape (n_texts, n_labels), columns in the order of `labels`; 0 for missing ones."""
        probabilities = np.zeros((len(texts), len(labels)))
        probabilities[:, self.find_columns(labels)] = self.label_texts(texts)
        return probabilities


def load_systems(
    paths: list[str], revision: str | None = None, label_map: str | None = None, **engine: object
) -> list[System]:
    """Load models, as `SentimentClassifier.from_pretrained` does, and folders of baselines.

    The last part of a path becomes the name if all of them differ; otherwise it is the whole path.

    Raises:
        UserError: as `name_labels` and `load_baseline`; if a baseline is given with a revision.
    """
    short = ["+".join(os.path.basename(os.path.normpath(name)) for name in split_names(path)) for path in paths]
    systems = []
    for name, path in zip(short if len(set(short)) == len(paths) else paths, paths, strict=True):
        if Path(BUNDLED.get(path, path), DESCRIPTION).is_file():
            if revision:
                raise UserError(f"{path} is a baseline: leave --model_revision out, which is for a model on the Hub.")
            baseline = load_baseline(path)
            systems.append(System(name, baseline.kind, name_labels(name, baseline.labels, label_map), baseline.predict))
        else:
            classifier = SentimentClassifier.from_pretrained(path, revision, **engine)
            systems.append(wrap_classifier(name, classifier, label_map))
    return systems


def was_trained_on(model: str, path: str | Path) -> bool:
    """Return whether run.json of a model, local or bundled, or of a joined one, names a train file like `path`."""
    trained_on = []
    for name in split_names(model):
        record = Path(BUNDLED.get(name, name), RUN_RECORD)
        try:
            trained_on.append(json.loads(record.read_bytes())["data"]["train"]["sha256"])
        except ValueError as error:
            raise UserError(f"{record} is damaged ({error}): mend or remove it.") from error
        except (FileNotFoundError, NotADirectoryError, LookupError, TypeError):  # there is none, or another program's
            continue
    return bool(trained_on) and hash_file(Path(path)) in trained_on


def wrap_classifier(name: str, classifier: SentimentClassifier, label_map: str | None = None) -> System:
    """Return a classifier as a system; an empty text gets equal probabilities. A UserError as `name_labels`."""
    columns, engine = [f"p_{label}" for label in classifier.labels], classifier.engine

    def label_texts(texts: list[str]) -> np.ndarray:
        return pd.DataFrame(classifier(texts), columns=columns, dtype=float).fillna(1 / len(columns)).to_numpy()

    described = {"device": engine.device.type, "backend": engine.backend, "precision": engine.precision}
    return System(name, "model", name_labels(name, classifier.labels, label_map), label_texts, described)


def name_labels(name: str, labels: tuple[str, ...], label_map: str | None) -> tuple[str, ...]:
    """Return the names that the file has for the labels of the system `name`, in the system's order.

    Args:
        label_map: `LABEL_0=positive,LABEL_1=neutral,...` renames the labels of the system if it names all of them.
            Otherwise it maps labels of the file, and the system keeps its own.

    Raises:
        UserError: if a name says nothing (LABEL_0), or two labels have the same name.
    """
    pairs = [pair.partition("=") for pair in (label_map or "").split(",")]
    names = {label.strip(): new.strip() for label, _, new in pairs}
    new_names = tuple(names.get(label, "") for label in labels)
    of_a_file = rf"|{DROP}|[+-]?\d+|.*\|.*"  # no name, drop, a number, several names: the map is for the file's labels
    named = labels if any(re.fullmatch(of_a_file, new) for new in new_names) else new_names
    if any(re.fullmatch(r"LABEL_\d+", label) for label in named) or len(set(named)) < len(named):
        example = ",".join(f"{label}=..." for label in labels)
        raise UserError(f"{name} calls its labels {', '.join(labels)}: say what each means, --label_map {example}")
    return named
