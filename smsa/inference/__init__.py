"""Texts in, labels out, at any size: files -> chunks of rows -> tokens -> logits -> files."""

from smsa.inference.batches import BatchPredictor

__all__ = ["BatchPredictor"]
