"""Functions for the templates of reports and model cards: they format numbers, and escape texts and cells."""

import re
import shlex
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined


def cell(value: object) -> str:
    """Return a value as a cell of a table: what would end the cell or its line is escaped."""
    return " ".join(str(value).split()).replace("|", r"\|")


def row(*values: object) -> str:
    """Return a row of a table; an iterable among the values gives several cells."""
    several = (value if isinstance(value, Iterable) and not isinstance(value, str) else [value] for value in values)
    return "|" + "".join(f" {text} |" if text else " |" for text in map(cell, chain.from_iterable(several)))


def header(*titles: object) -> str:
    """Return the two lines that begin a table; titles are given as to `row`."""
    line = row(*titles)
    n_columns = line.replace(r"\|", "").count("|") - 1
    return f"{line}\n{'|---' * n_columns}|"


def one_line(text: str) -> str:
    """Return a text as one line, with Markdown's characters escaped."""
    return re.sub(r"([\\`*_<>|\[\]#&~$])", r"\\\1", " ".join(text.split()))


def percent(value: float) -> str:
    """Return a fraction in per cent."""
    return f"{100 * value:.1f}"


def interval(score: dict[str, float]) -> str:
    """Return the `value` and its interval, from `low` to `high`, in per cent."""
    return f"{percent(score['value'])} ({percent(score['low'])} to {percent(score['high'])})"


TEMPLATES = Environment(
    loader=FunctionLoader(lambda name: Path(__file__).parents[1].joinpath(name).read_text(encoding="utf-8")),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals |= {"row": row, "header": header}
TEMPLATES.filters |= {function.__name__: function for function in (cell, one_line, percent, interval)} | {
    "quote": shlex.quote,
    "count": lambda n: f"{int(n):,}",
    "predicted": "predicted {}".format,
}
