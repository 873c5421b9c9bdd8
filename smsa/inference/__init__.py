"""Texts in, labels out, at any size: files -> windows of rows -> word pieces -> logits -> files."""
