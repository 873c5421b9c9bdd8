"""The sentiment labels of SmSA and their order, which stands only here; and what the labels of a file mean.

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
# The tutorial predicts these before and after training. Their true labels are those of `LABELS`, in the same order.
EXAMPLES = (
    "Bahagia hatiku melihat pernikahan putri sulungku yang cantik jelita",
    "Budi pergi ke pondok indah mall membeli cakwe",
    "Dasar anak sialan!! Kurang ajar!!",
)
_AROUND = {"sentiment", "sentimen", "label", "class", "kelas", "polarity", "polaritas"}  # words that say nothing more
_TRUE = re.compile(r"(?<![^\W_])(gold|true|actual|aktual|asli|manual)(?![^\W_])", re.IGNORECASE)
_LONGEST = 40  # characters; a longer value is taken as it is
# What may surround a label's word: no number behind a colon (perhaps a probability), no neg_1 (perhaps a name)
_HARMLESS = re.compile(r"(?!.*(:\s*|_)\d)[\w\s()\[\]{}.,:;/\"'#|+-]+")
_MOST_RATINGS = 10  # different values; a column with more holds counts
_MOST_LABELS = 20  # different values in a file; more are hardly labels
# Adverbs of degree: the word behind them still names the sentiment
_DEGREES = re.compile(r"(?:(?:sangat|amat|cukup|agak|cenderung|very|strongly|extremely|somewhat|slightly) )+(\w+)")
DROP = "drop"  # in a label map: exclude these rows
# What numbers usually mean. Messages propose it, but no code assumes it: in SmSA, 0 is positive
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
    """Return a label of a file in its plain form, or None if the value is no label.

    Drop case, blanks, quotes and brackets around the label, a full stop, and the .0 of a whole number. If its only
    telling word names a sentiment, return this word: `positive` for `Positive Sentiment`, `positif` for `1 (positif)`.
    An empty value, blanks, and values other than text and numbers are no label.
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
    """Return whether there are labels and all of them name sentiments."""
    found = {plain_label(value) for value in values} - {None}
    return bool(found) and found <= SENTIMENTS.keys()


def find_label_columns(names: list[str], columns: list[Sequence[object]], n_own: int) -> tuple[list[int], list[int]]:
    """Return the indices of columns of labels: those to use, if there is only one, and all that the user may mean.

    A column of labels is known by its name, `label` first, or by values that name sentiments; failing both, by the name
    of a rating, whose numbers need a label map. Columns within rows of JSON follow the `n_own` others. Predictions (by
    name, or with probabilities beside them) are not used if there are other labels. Columns named as true labels
    (gold, asli) are returned beside the column that was found, so that the user is asked.
    """
    plain = [{plain_label(value) for value in values} - {None} for values in columns]
    by_content = {i for i, found in enumerate(plain) if found and found <= SENTIMENTS.keys()}
    some = {i for i, found in enumerate(plain) if found and name_kind(names[i]) not in ("text", "other")}
    # a column of many different numbers, such as polarities from -1 to 1, holds no labels
    few = {i for i in some if len(plain[i]) <= _MOST_LABELS or not are_numbers(plain[i])}
    named = {i for i in few if name_kind(names[i]) == "label"}
    usual = {i for i in named if re.sub(r"[\W_]+", "", names[i]).lower() == "label"}
    own, both = {*range(n_own)}, named & by_content
    ratings = {i for i in few & own if name_kind(names[i]) == "rating" and 1 < len(plain[i]) <= _MOST_RATINGS}
    ratings = set() if by_content else ratings
    prefixes = {name.removesuffix("label") for name in names if name.endswith("label")}
    predicted = {f"{prefix}label" for prefix in prefixes if any(name.startswith(f"{prefix}p_") for name in names)}
    true = {i for i, name in enumerate(names) if name not in predicted and "pred" not in name.lower()}
    kinds = (  # the first one that is not empty holds the labels
        {i for i in usual & own if names[i] == "label"},
        *(found & own for found in (usual, both & true, named & true, by_content & true)),
        *(found & true for found in (usual & both, both, set() if named - own else by_content, ratings)),
    )
    taken = next(filter(None, kinds), set())
    others = {i for i in by_content if _TRUE.search(names[i]) and name_kind(_TRUE.sub("", names[i])) in ("label", None)}
    if not taken <= true:
        others |= true.intersection(chain(*kinds))
    # other labels, such as emotions: repeated values in a column whose name says nothing
    repeated = {i for i in few if name_kind(names[i]) is None and 1 < len(plain[i]) < 0.7 * len(columns[i])}
    return [*sorted(taken), *sorted(others - taken)], sorted(named | by_content | ratings or repeated)


def match_labels(labels: tuple[str, ...], label_map: str | None = None) -> dict[str, int | None]:
    """Return the label id of each plain label that a file may have, or None for rows to exclude.

    Args:
        labels: names in the order of their ids.
        label_map: `-1=negative,0=neutral,1=positive`, where several values may mean the same label; or the other way
            round, `positive=4|5,negative=1|2,drop=3`. Other values mean what they mean without a map. A label that is
            dropped is dropped under all its names.

    Raises:
        UserError: if a pair has neither form, or a value has two meanings.
    """
    # labels that differ only in case must match exactly
    plain = plain_label if len({*map(plain_label, labels)}) == len(labels) else str.strip
    exact = {plain(label): i for i, label in enumerate(labels)}
    meant = {SENTIMENTS[label]: i for label, i in exact.items() if label in SENTIMENTS}
    words = {word: meant[sentiment] for word, sentiment in SENTIMENTS.items() if sentiment in meant}
    ids = words | exact if len(meant) == sum(label in SENTIMENTS for label in exact) else exact
    named: dict[str, int | None] = {}
    for pair in label_map.split(",") if label_map else ():
        sides = [[plain(value) for value in side.split("|")] for side in pair.split("=")]
        single = [side for side in sides if len(side) == 1]
        known = next(filter(None, ([s for s in single if s[0] in names] for names in ({DROP}, exact, ids))), [])
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
    """Return the number in a rating such as `bintang 4`, `4 stars`, `4/5` and ★★★★☆, or in +1; others as they are."""
    if "★" in label or "⭐" in label:
        return str(label.count("★") + label.count("⭐"))
    found = re.fullmatch(r"(?:\w*[^\W\d]\s|\+)?(\d)(?:\s?/\s?5)?(?:\s[^\W\d]+)?", label)
    return found[1] if found else label


def propose_map(values: list[str], labels: tuple[str, ...], other: str = DROP) -> str:
    """Return a label map that gives each of these plain labels its usual meaning, and `other` to the rest."""
    numbers = {value: _to_number(value) for value in values}
    usual = next((meant for meant in _USUAL if meant.keys() >= {*numbers.values()} and len(values) > 1), {})
    ids = match_labels(labels)
    said = {value: SENTIMENTS.get(_DEGREES.sub(r"\1", re.sub("[-_]", " ", value))) for value in values}
    meant = {value: ids.get(usual.get(numbers[value]) or said[value]) for value in values}
    return ",".join(f"{value}={other if i is None else labels[i]}" for value, i in meant.items())


def describe_unknown(rows: Sequence[BadRow], labels: tuple[str, ...], are_others: bool, given: str) -> str:
    """Return what to do about the unknown labels of a file: options to paste, with counts and examples.

    Args:
        rows: those with an unknown label.
        are_others: whether the file has other rows, so that something is left if all of these are dropped.
        given: the pairs of the label map that was given, with a comma behind them, or an empty string.
    """
    counts = Counter(row.label for row in rows)
    examples = {row.label: row.text[:40] for row in reversed(rows)}
    numbers = sorted((value for value in counts if re.fullmatch(r"-?\d{1,9}", value)), key=int)
    values = [*numbers, *sorted(counts.keys() - {*numbers})]
    listed = "; ".join(f"{value} ({counts[value]:,}) {examples[value]!r}" for value in values[:10])
    found = f"The labels are {', '.join(labels)}; the file has others: {listed}."
    if len(values) > _MOST_LABELS or any(re.search("[,=|]", value) for value in values):
        return (
            f"{found} An option takes at most {_MOST_LABELS} labels, none with a comma, = or |: name the "
            "column of labels with --label_column, or rename the labels in the file."
        )
    proposed = propose_map(values, labels, DROP if are_others else "...")
    option = shlex.quote(f"--label_map={given}{proposed}")
    if not are_others:  # else the other rows' labels are known, and --labels would lack them
        option += f"; or, in finetune.py, train on them as they are: {shlex.quote('--labels=' + ','.join(values))}"
    return f"{found} Look at these examples, and say what the labels mean ({DROP} excludes rows): {option}."
