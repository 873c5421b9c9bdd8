"""Tables in Markdown, and the intervals in them."""

from collections.abc import Iterable, Sequence

POINT_INTERVALS = "Where both ends of an interval are equal, these texts cannot show how much others would differ."


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Get the lines of a table; what would end a cell or a line is written so that it does not."""
    return [_line(titles), "|---" * len(titles) + "|", *(_line(row) for row in rows)]


def with_interval(value: float, low: float, high: float) -> str:
    """Get a share and its interval in per cent."""
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _line(cells: Sequence[object]) -> str:
    written = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in written)
