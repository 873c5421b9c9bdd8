"""Texts in, labels out, at any size: files -> chunks of rows -> tokens -> logits -> files."""
