"""Tables whose cells hold anything."""

import re

from hypothesis import given
from hypothesis import strategies as st

from smsa.evaluation.markdown import row, table


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=4))
def test_whatever_the_cells_hold_a_table_keeps_its_rows_and_columns(rows):
    titles, bar, *lines = table(["", "a|b"], rows)
    assert titles == r"| | a\|b |" and bar == "|---|---|"
    assert len(lines) == len(rows)
    for line, texts in zip(lines, rows, strict=True):
        assert len(line.splitlines()) == 1
        _, *cells, _ = re.split(r"(?<!\\)\|", line)
        assert [cell.strip().replace(r"\|", "|") for cell in cells] == [" ".join(text.split()) for text in texts]


def test_numbers_stand_as_they_are_and_an_iterable_is_several_cells():
    assert row(1, None, "2.5", ["a", "b"]) == "| 1 | None | 2.5 | a | b |"
