"""The sentiment labels of SmSA and their order: the one place that knows it.

IndoNLU's order is part of the interface. Other loaders of SmSA use other orders, so match labels by name, never by id.
"""

from smsa.errors import UserError

LABELS: tuple[str, ...] = ("positive", "neutral", "negative")
# The tutorial tries these before and after training; to a person they are positive, neutral and negative, as `LABELS`.
EXAMPLES = (
    "Bahagia hatiku melihat pernikahan putri sulungku yang cantik jelita",
    "Budi pergi ke pondok indah mall membeli cakwe",
    "Dasar anak sialan!! Kurang ajar!!",
)


def parse_labels(names: str) -> tuple[str, ...]:
    """Return the labels in `negatif,netral,positif`, in this order.

    Raises:
        UserError: for fewer than two names, an empty or a repeated one.
    """
    labels = tuple(name.strip() for name in names.split(","))
    if len(labels) < 2 or len(set(labels)) != len(labels) or "" in labels:
        raise UserError(f"--labels {names!r}: give at least two different names, comma-separated.")
    return labels


def label_maps(labels: tuple[str, ...] = LABELS) -> dict[str, dict]:
    """Return `id2label` and `label2id` as a transformers configuration takes them, ids in the order of `labels`."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
