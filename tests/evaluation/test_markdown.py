"""Rows of tables whose cells hold anything."""

import re

from hypothesis import given
from hypothesis import strategies as st

from smsa.evaluation.markdown import header, row


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_whatever_the_cells_hold_a_row_is_one_line_of_as_many_cells(texts):
    line = row(texts)
    assert len(line.splitlines()) == 1
    _, *cells, _ = re.split(r"(?<!\\)\|", line)
    assert [cell.strip().replace(r"\|", "|") for cell in cells] == [" ".join(text.split()) for text in texts]
    assert header(texts) == f"{line}\n|{'---|' * len(texts)}"


def test_numbers_stand_as_they_are_and_an_iterable_is_several_cells():
    assert row(1, None, "2.5", ["a", "b"]) == "| 1 | None | 2.5 | a | b |"
