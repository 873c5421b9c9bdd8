"""Tables in Markdown, and a sentence that goes with intervals in them."""

from collections.abc import Iterable, Sequence

POINT_INTERVALS = "Where both ends of an interval are equal, these texts cannot show how much others would differ."


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Get the lines of a table; what would end a cell or a line is written so that it does not."""
    return [_line(titles), "|---" * len(titles) + "|", *(_line(row) for row in rows)]


def _line(cells: Sequence[object]) -> str:
    written = (" ".join(str(cell).split()).replace("|", r"\|") for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in written)
