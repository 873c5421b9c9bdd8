"""What is judged: a fine-tuned model or a baseline, and what its labels are called."""

import re
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from smsa.data.normaliser import add_normaliser
from smsa.errors import UserError
from smsa.evaluation.baselines import DESCRIPTION, load_baseline
from smsa.inference.classifier import SentimentClassifier
from smsa.models.loading import load_classifier

_LABEL_N = re.compile(r"LABEL_\d+")


class System(Protocol):
    """Whatever labels texts."""

    kind: str
    labels: tuple[str, ...]

    def predict(self, texts: list[str]) -> np.ndarray:
        """Get the probability of each label, of shape (n_texts, n_labels)."""


class ModelSystem:
    """A fine-tuned model as a `System`; an empty text gets equal probabilities."""

    kind = "model"

    def __init__(self, classifier: SentimentClassifier):
        self.classifier, self.labels = classifier, classifier.labels

    def predict(self, texts: list[str]) -> np.ndarray:
        window = self.classifier.engine.window_rows
        parts = [
            self.classifier.score(pa.array(texts[i : i + window], pa.string())).probabilities
            for i in range(0, len(texts), window)
        ]
        probabilities = np.concatenate(parts) if parts else np.zeros((0, len(self.labels)))
        return np.where(np.isnan(probabilities), 1 / len(self.labels), probabilities)

    def describe_engine(self) -> dict[str, object]:
        """Get what computes the logits, which moves their last bits, and by int8 a few labels."""
        engine = self.classifier.engine
        return {"device": engine.device.type, "backend": engine.backend, "precision": engine.precision}


def load_system(name: str, revision: str | None = None, **options: object) -> System:
    """Load a baseline's folder, or a model as `SentimentClassifier.from_pretrained` does.

    Raises:
        ValueError: for a revision of a baseline; and as `load_baseline` and `load_classifier`.
        OSError: as `load_classifier`.
    """
    if (Path(name) / DESCRIPTION).is_file():
        if revision is not None:
            raise UserError(f"{name} is a baseline, which has no --model_revision.")
        return load_baseline(name)
    return ModelSystem(SentimentClassifier.from_pretrained(name, revision, **options))


def load_normalised(name: str, **options: object) -> System:
    """Load a model as `load_system` does, with `add_normaliser` put into its tokenizer; nothing is written."""
    model, tokenizer = load_classifier(name)
    return ModelSystem(SentimentClassifier(model, add_normaliser(tokenizer), **options))


def read_label_map(label_map: str | None) -> dict[str, str]:
    """Get the names in `LABEL_0=positive,LABEL_1=neutral,...`; none for None.

    Raises:
        ValueError: if it is something else, or gives two labels one name.
    """
    pairs = [pair.partition("=") for pair in label_map.split(",")] if label_map else []
    names = {label.strip(): name.strip() for label, _, name in pairs}
    if "" in names or "" in names.values() or len({*names.values()}) < len(pairs):
        raise UserError(f"--label_map {label_map!r}: write LABEL_0=positive,LABEL_1=neutral,... with different names.")
    return names


def name_labels(name: str, labels: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    """Get what a system's labels are called in the file, in the system's order.

    Args:
        name: of the system, for messages.
        labels: as the system calls them.
        names: as `read_label_map` gives them; a system that has none of these labels keeps its own.

    Raises:
        ValueError: if a label has a name that says nothing (LABEL_0), or only some of them are named.
    """
    named = tuple(names.get(label, "LABEL_0") for label in labels) if names.keys() & set(labels) else labels
    if any(_LABEL_N.fullmatch(label) for label in named) or len(set(named)) < len(named):
        raise UserError(
            f"{name} calls its labels {', '.join(labels)}: say what each of them means, for example "
            f"--label_map {','.join(f'{label}=...' for label in labels)}."
        )
    return named
