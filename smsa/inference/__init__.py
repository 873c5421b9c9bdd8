"""Texts in, labels out, at any size: files -> chunks of rows -> tokens -> logits -> files."""

from importlib import import_module


def __getattr__(name: str) -> object:
    """Import BatchPredictor on first use; other engines call it."""
    if name == "BatchPredictor":
        return import_module("smsa.inference.batches").BatchPredictor
    raise AttributeError(f"module 'smsa.inference' has no attribute {name!r}")
