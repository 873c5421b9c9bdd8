"""Both tutorials and the notebook: they run from top to bottom and print what stands on the page."""

import re

import nbformat
import pytest

from docs import regenerate

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in regenerate.PAGES}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
ROUGHLY = 0.05  # probabilities, between processors and precisions
WEIGHTS = 0.3  # log-odds


def blocks(name: str) -> list[tuple[str, str, str]]:
    return [block.groups("")[1:] for block in regenerate.read_blocks(TEXTS[name])]


def test_both_languages_have_the_same_blocks_with_the_same_outputs():
    first, second = map(blocks, TEXTS)
    assert len(first) == 11 and first == second
    of_all = [[block.group("needs", "code") for block in regenerate.BLOCK.finditer(text)] for text in TEXTS.values()]
    assert of_all[0] == of_all[1]


def test_the_notebook_is_the_indonesian_page():
    notebook = nbformat.read(regenerate.NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    made = regenerate.to_notebook(TEXTS["tutorial.id.md"])
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in made.cells]
    printed = ["".join(output.text for output in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    assert [text.strip("\n") for text in printed[1:]] == [out.strip("\n") for _, _, out in blocks("tutorial.id.md")]


@pytest.mark.slow(1500)
def test_the_notebook_runs_and_prints_what_the_pages_show():
    printed = regenerate.run(regenerate.to_notebook(TEXTS["tutorial.id.md"]))
    shown = blocks("tutorial.id.md")
    assert len(printed) == len(shown)
    for found, (_, code, output) in zip(printed, shown, strict=True):
        found, output = found.strip("\n"), output.strip("\n")
        trains = any(word in code for word in ("runs/tutorial ", "scripts/finetune.py", "backward()"))
        words = str.split if trains else str  # of a training as many lines, of the same kind
        assert words(NUMBER.sub("#", found)) == words(NUMBER.sub("#", output)), found
        numbers, expected = (list(map(float, NUMBER.findall(text))) for text in (found, output))
        tolerance = WEIGHTS if "explain" in code else ROUGHLY
        assert trains or numbers == pytest.approx(expected, abs=tolerance), found
