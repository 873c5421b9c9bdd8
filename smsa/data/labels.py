"""The sentiment labels of SmSA and their order: the one place that knows it; and what the labels of a file mean.

IndoNLU's order is part of the interface. Other loaders of SmSA use other orders, so match labels by name, never by id.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from smsa.data.formats import SENTIMENTS, BadRow, are_numbers, name_kind
from smsa.errors import UserError

LABELS: tuple[str, ...] = ("positive", "neutral", "negative")
# The tutorial tries these before and after training; to a person they are positive, neutral and negative, as `LABELS`.
EXAMPLES = (
    "Bahagia hatiku melihat pernikahan putri sulungku yang cantik jelita",
    "Budi pergi ke pondok indah mall membeli cakwe",
    "Dasar anak sialan!! Kurang ajar!!",
)
_AROUND = {"sentiment", "sentimen", "label", "class", "kelas", "polarity", "polaritas"}  # words that say no more
_TRUE = re.compile(r"(?<![^\W_])(gold|true|actual|aktual|asli|manual)(?![^\W_])", re.IGNORECASE)
_LONGEST = 40  # of what is looked at as a label
# What may stand around its word without denying it; a number behind a colon may be a share, or no; neg_1 is a name
_HARMLESS = re.compile(r"(?!.*(:\s*|_)\d)[\w\s()\[\]{}.,:;/\"'#|+-]+")
_MOST_RATINGS = 10  # different ones; more are a count
_MOST_LABELS = 20  # of a file, that a message lists as an option; more are hardly labels
# Words that make another more or less, so that it still says what is meant
_DEGREES = re.compile(r"(?:(?:sangat|amat|cukup|agak|cenderung|very|strongly|extremely|somewhat|slightly) )+(\w+)")
DROP = "drop"  # in a label map: leave these rows out
# What numbers usually mean, as a proposal only: SmSA's own ids would be 0=positive
_USUAL = (
    {"0": "negative", "1": "positive"},
    {"-1": "negative", "0": "neutral", "1": "positive"},
    {"-": "negative", "0": "neutral", "+": "positive"},
    {"1": "negative", "2": "positive"},
    {"0": "negative", "1": "neutral", "2": "positive"},
    {"1": "negative", "2": "neutral", "3": "positive"},
    {"1": "negative", "2": "negative", "3": "neutral", "4": "positive", "5": "positive"},
    {"0": "negative", "2": "neutral", "4": "positive"},
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


def plain_label(value: object) -> str | None:
    """Return a label of a file without what means nothing.

    That is case, blanks, quotes and brackets around it, a full stop, the .0 of a whole number; and what stands beside a
    single word for a sentiment in `Positive Sentiment`, `1 (positif)` and the like.

    None is for no label: nothing, blanks, or a value that no label can be.
    """
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if not isinstance(value, str | int | float) or value != value:  # NaN
        return None
    text = str(value).strip().strip("[]\"'“”‘’\u200b\ufeff").strip().lower()
    if text.isalpha() or len(text) > _LONGEST:
        return text
    text = re.sub(r"^([+-]?\d+)[.,]0+$", r"\1", text).removesuffix(".")
    words = [word for word in re.findall(r"[^\W_]+", text) if word not in _AROUND and not word.isdecimal()]
    is_said = len(words) == 1 and words[0] in SENTIMENTS and _HARMLESS.fullmatch(text)
    return words[0] if is_said else text or None


def are_sentiments(values: Iterable[object]) -> bool:
    """Whether there are labels, and all of them are words for sentiments."""
    found = {plain_label(value) for value in values} - {None}
    return bool(found) and found <= SENTIMENTS.keys()


def find_label_columns(names: list[str], columns: list[Sequence[object]], n_own: int) -> tuple[list[int], list[int]]:
    """Return the places of columns of labels: those that are taken if there is one only, and those that may be meant.

    A name tells, `label` before all, else labels for sentiments in it, also of the columns within rows of JSON, which
    stand behind the `n_own` others; else the name of a rating, whose numbers need a meaning all the same. What is
    called a prediction, or has probabilities beside it, is no true label where others are; what is called a true label
    leaves open whether others are.
    """
    plain = [{plain_label(value) for value in values} - {None} for values in columns]
    by_content = {i for i, found in enumerate(plain) if found and found <= SENTIMENTS.keys()}
    some = {i for i, found in enumerate(plain) if found and name_kind(names[i]) not in ("text", "other")}
    # many numbers, as polarities from -1 to 1, are none
    few = {i for i in some if len(plain[i]) <= _MOST_LABELS or not are_numbers(plain[i])}
    named = {i for i in few if name_kind(names[i]) == "label"}
    usual = {i for i in named if re.sub(r"[\W_]+", "", names[i]).lower() == "label"}
    own, both = {*range(n_own)}, named & by_content
    ratings = {i for i in few & own if name_kind(names[i]) == "rating" and 1 < len(plain[i]) <= _MOST_RATINGS}
    ratings = set() if by_content else ratings
    prefixes = {name.removesuffix("label") for name in names if name.endswith("label")}
    predicted = {f"{prefix}label" for prefix in prefixes if any(name.startswith(f"{prefix}p_") for name in names)}
    true = {i for i, name in enumerate(names) if name not in predicted and "pred" not in name.lower()}
    kinds = (  # the first that there is holds the labels
        {i for i in usual & own if names[i] == "label"},
        *(found & own for found in (usual, both & true, named & true, by_content & true)),
        *(found & true for found in (usual & both, both, set() if named - own else by_content, ratings)),
    )
    taken = next(filter(None, kinds), set())
    others = {i for i in by_content if _TRUE.search(names[i]) and name_kind(_TRUE.sub("", names[i])) in ("label", None)}
    if not taken <= true:
        others |= true.intersection(chain(*kinds))
    # as emotions, in a column that is not known for anything else
    repeated = {i for i in few if name_kind(names[i]) is None and 1 < len(plain[i]) < 0.7 * len(columns[i])}
    return [*sorted(taken), *sorted(others - taken)], sorted(named | by_content | ratings or repeated)


def match_labels(labels: tuple[str, ...], label_map: str | None = None) -> dict[str, int | None]:
    """Return what plain labels of a file mean: an id, or None for rows to leave out.

    Args:
        labels: names in the order of their ids.
        label_map: `-1=negative,0=neutral,1=positive`, of which several may mean one, or the other way round,
            `positive=4|5,negative=1|2,drop=3`; only these values have a meaning then, and the labels themselves. A
            label that is dropped is so whatever the file calls it.

    Raises:
        UserError: for a pair that is neither, or a value with two meanings.
    """
    # labels that differ by case only are taken as they are
    plain = plain_label if len({*map(plain_label, labels)}) == len(labels) else str.strip
    exact = {plain(label): i for i, label in enumerate(labels)}
    meant = {SENTIMENTS[label]: i for label, i in exact.items() if label in SENTIMENTS}
    words = {word: meant[sentiment] for word, sentiment in SENTIMENTS.items() if sentiment in meant}
    ids = words | exact if len(meant) == sum(label in SENTIMENTS for label in exact) else exact
    named: dict[str, int | None] = {}
    for pair in label_map.split(",") if label_map else ():
        sides = [[plain(value) for value in side.split("|")] for side in pair.split("=")]
        known = next(
            filter(None, ([s for s in sides if len(s) == 1 and s[0] in names] for names in ({DROP}, exact, ids))), []
        )
        is_clear = len(sides) == 2 and len({side[0] for side in known}) == 1
        target = ids.get(known[0][0]) if is_clear else None
        values = chain(*(side for side in sides if side not in known))
        if not is_clear or any(not value or named.setdefault(value, target) != target for value in values):
            raise UserError(
                f"--label_map {label_map!r}: {pair!r} does not say which label of the file means which of "
                f"{', '.join(labels)} or {DROP}. Write --label_map={propose_map(['0', '1'], labels)}, for example."
            )
    dropped = {exact[value] for value, target in named.items() if target is None and value in exact}
    return {value: None if target in dropped else target for value, target in (ids | named).items()}


def _to_number(label: str) -> str:
    """Return the stars of a rating, as in `bintang 4`, `4 stars`, `4/5` and ★★★★☆, and 1 for +1; others as they are."""
    if "★" in label or "⭐" in label:
        return str(label.count("★") + label.count("⭐"))
    found = re.fullmatch(r"(?:\w*[^\W\d]\s|\+)?(\d)(?:\s?/\s?5)?(?:\s[^\W\d]+)?", label)
    return found[1] if found else label


def propose_map(values: list[str], labels: tuple[str, ...], other: str = DROP) -> str:
    """Return a label map that gives each of these plain labels its usual meaning, and `other` to what has none."""
    numbers = {value: _to_number(value) for value in values}
    usual = next((meant for meant in _USUAL if meant.keys() >= {*numbers.values()} and len(values) > 1), {})
    ids = match_labels(labels)
    said = {value: SENTIMENTS.get(_DEGREES.sub(r"\1", re.sub("[-_]", " ", value))) for value in values}
    meant = {value: ids.get(usual.get(numbers[value]) or said[value]) for value in values}
    return ",".join(f"{value}={other if i is None else labels[i]}" for value, i in meant.items())


def describe_unknown(rows: Sequence[BadRow], labels: tuple[str, ...], are_others: bool, given: str) -> str:
    """Return what to do about labels of a file that have no meaning: options to paste, with counts and examples.

    Args:
        rows: those with such a label.
        are_others: whether the file has other rows, so that something is left if all of these are dropped.
        given: what the label map says already, with a comma behind it.
    """
    counts = Counter(row.label for row in rows)
    examples = {row.label: row.text[:40] for row in reversed(rows)}
    values = sorted(
        counts, key=lambda value: (0, int(value), "") if re.fullmatch(r"-?\d{1,9}", value) else (1, 0, value)
    )
    listed = "; ".join(f"{value} ({counts[value]:,}) {examples[value]!r}" for value in values[:10])
    found = f"The labels are {', '.join(labels)}; the file has others: {listed}."
    if len(values) > _MOST_LABELS or any(re.search("[,=|]", value) for value in values):
        return (
            f"{found} More than {_MOST_LABELS}, or one with a comma, = or |, cannot be named in an option: name the "
            "column of labels with --label_column, or rename them in the file."
        )
    proposed = propose_map(values, labels, DROP if are_others else "...")
    option = shlex.quote(f"--label_map={given}{proposed}")
    if not are_others:  # which would have no place among the labels of the file as they are
        option += f"; or, in finetune.py, train on them as they are: {shlex.quote('--labels=' + ','.join(values))}"
    return f"{found} Say what they mean, after a look at these examples ({DROP} leaves rows out): {option}."
