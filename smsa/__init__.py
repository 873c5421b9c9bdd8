"""smsa: fine-tune an Indonesian encoder for sentiment with IndoNLU's recipe, and label texts with the classifier.

Data flows one way: files -> rows -> tokens -> logits -> tables.
"""

from importlib import import_module

_HOMES = {
    "training.arguments": ("ModelArguments", "SentimentTrainingArguments"),
    "data.datasets": ("DataArguments", "encode_splits", "find_smsa", "load_splits", "read_rows"),
    "data.labels": ("LABELS",),
    "training.metrics": ("compute_metrics",),
    "training.sentiment_metric": ("SentimentMetric",),
    "models.loading": ("choose_labels", "freeze_layers", "load_classifier", "load_model"),
    "data.formats": ("BadRowsError",),
    "inference.classifier": ("SentimentClassifier",),
    "inference.job": ("predict_files",),
    "training.trainer": ("SentimentTrainer",),
    "evaluation.tables": ("evaluate", "predict", "train"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name on first use: predicting need not wait for Trainer to load, nor training for the engine."""
    if name == "spark":
        return import_module("smsa.inference.spark")
    if name not in _HOME:
        raise AttributeError(f"module 'smsa' has no attribute {name!r}")
    return getattr(import_module(f"smsa.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
