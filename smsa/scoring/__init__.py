"""Texts in, labels out, at any size: files -> windows of rows -> word pieces -> logits -> files."""

from importlib import import_module

_HOME = {"SentimentClassifier": "classifier", "score_files": "job", "score_paths": "paths"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: labelling a sentence needs no readers of files."""
    if name not in _HOME:
        raise AttributeError(f"module 'smsa.scoring' has no attribute {name!r}")
    return getattr(import_module(f"smsa.scoring.{_HOME[name]}"), name)
