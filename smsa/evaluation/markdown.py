"""Markdown that holds whatever the values hold: rows of tables, numbers, texts of one line; for templates."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain

from jinja2 import Environment, PackageLoader, StrictUndefined

POINT_INTERVALS = "Where both ends of an interval are equal, these texts cannot show how much others would differ."


def row(*cells: object) -> str:
    """Return a row of a table; what would end a cell or a line is escaped, and an iterable stands for several cells."""
    several = (cell if isinstance(cell, Iterable) and not isinstance(cell, str) else [cell] for cell in cells)
    written = (" ".join(str(cell).split()).replace("|", r"\|") for cell in chain.from_iterable(several))
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in written)


def header(*titles: object) -> str:
    """Return the two lines that begin a table, of titles as `row` takes them."""
    titles = row(*titles)
    n_columns = titles.replace(r"\|", "").count("|") - 1
    return f"{titles}\n{'|---' * n_columns}|"


def table(titles: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a whole table."""
    return [*header(titles).split("\n"), *map(row, rows)]


def percent(value: float) -> str:
    """Return a fraction in per cent."""
    return f"{100 * value:.1f}"


def with_interval(value: float, low: float, high: float) -> str:
    """Return a fraction and its interval in per cent."""
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def one_line(text: str) -> str:
    """Return a text as one line that Markdown leaves alone."""
    return re.sub(r"([\\`*_<>|\[\]#])", r"\\\1", " ".join(text.split()))


def render(package: str, template: str, **values: object) -> str:
    """Fill a Markdown template of a package; templates may use the functions of this module, and the filter `count`."""
    return _environment(package).get_template(template).render(**values)


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=PackageLoader(package, "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {"row": row, "header": header, "POINT_INTERVALS": POINT_INTERVALS}
    environment.filters |= {"percent": percent, "one_line": one_line, "count": "{:,}".format}
    environment.filters["interval"] = lambda bounded: with_interval(**bounded)
    return environment
