"""Texts of similar length -> batches of so many word pieces: the fewest pads without a look beyond one window."""

from collections.abc import Sequence

import numpy as np


def plan_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Get the batches of one window: indices of texts, longest first; ties keep their order.

    Args:
        lengths: word pieces of each text, of shape (n_texts,).
        batch_tokens: word pieces a batch at the most, pads included; a longer text makes a batch alone.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def pad_batch(token_ids: Sequence[np.ndarray], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Get input ids and attention mask of one batch, int64, of shape (n_texts, pieces of the longest)."""
    lengths = np.array([len(ids) for ids in token_ids])
    attention_mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids = np.full(attention_mask.shape, pad_id, dtype=np.int64)
    input_ids[attention_mask] = np.concatenate(token_ids)
    return input_ids, attention_mask.astype(np.int64)
