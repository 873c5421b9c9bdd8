"""The sentiment labels of SmSA and their order: the one place that knows it.

IndoNLU's order is part of the interface. Other loaders of SmSA use other orders, so match labels by name, never by id.
"""

LABELS: tuple[str, ...] = ("positive", "neutral", "negative")


def label_maps(labels: tuple[str, ...] = LABELS) -> dict[str, dict]:
    """Get `id2label` and `label2id` as a transformers configuration takes them, ids in the order of `labels`."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
