"""Runs the blocks of the tutorial and writes what they print into both pages and the notebook.

python docs/regenerate.py

The blocks are those of docs/tutorial.id.md, run as a notebook, in the folder of the project. A block that says what it
needs (`<!-- needs: hub -->`) is not run. Output on stderr (progress, logs) is not shown.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "docs" / "tutorial.id.md", ROOT / "docs" / "tutorial.md")
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
# A block that is run, and the output below it, if there is one.
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
# So that bash finds the commands of the environment that the kernel runs in.
START = """import os, sys
from pathlib import Path

if Path.cwd().name == "docs":
    os.chdir("..")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""


def read_blocks(text: str) -> Iterator[re.Match]:
    """Yield the blocks of a page that are run."""
    return (block for block in BLOCK.finditer(text) if not block["needs"])


def to_notebook(text: str) -> nbformat.NotebookNode:
    """Return the page as a notebook without outputs, whose first cell sets it up."""
    cells, position = [nbformat.v4.new_code_cell(START.strip())], 0
    for block in read_blocks(text):
        cells.append(nbformat.v4.new_markdown_cell(text[position : block.start()].strip()))
        mark = "%%bash\n" if block["language"] == "bash" else ""
        cells.append(nbformat.v4.new_code_cell(mark + block["code"].strip()))
        position = block.end()
    cells.append(nbformat.v4.new_markdown_cell(text[position:].strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(notebook: nbformat.NotebookNode) -> list[str]:
    """Run a notebook from top to bottom, in the folder of the project; return what each cell but the first printed.

    Outputs are left in the notebook, without those on stderr.

    Raises:
        nbclient.exceptions.CellExecutionError: with the cell and what it said.
    """
    NotebookClient(notebook, timeout=1200, coalesce_streams=True, resources={"metadata": {"path": str(ROOT)}}).execute()
    printed = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata = {}
            printed.append("".join(output["text"] for output in cell.outputs if output.output_type == "stream"))
    return printed[1:]


def put_outputs(text: str, printed: list[str]) -> str:
    """Return a page with the outputs of its blocks."""
    outputs = iter(printed)

    def put(block: re.Match) -> str:
        if block["needs"]:
            return block[0]
        output = next(outputs).strip("\n")
        shown = f"\n```text\n{output}\n```\n" if output else ""
        return f"```{block['language']}\n{block['code']}```\n{shown}"

    return BLOCK.sub(put, text)


def main() -> None:
    """Run all, and write the pages and the notebook."""
    notebook = to_notebook(PAGES[0].read_text(encoding="utf-8"))
    printed = run(notebook)
    for page in PAGES:
        page.write_text(put_outputs(page.read_text(encoding="utf-8"), printed), encoding="utf-8")
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
