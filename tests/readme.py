"""The code blocks of README.md, each with what it needs to run."""

import re

from conftest import ROOT

BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def read_blocks(name: str = "README.md") -> list[tuple[str, str, str]]:
    """Get (needs, language, code) of each bash and python block; `needs` is empty where nothing is needed."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [(match["needs"] or "", match["language"], match["code"]) for match in BLOCK.finditer(text)]


def find_block(word: str) -> str:
    """Get the one block that holds `word`."""
    (code,) = [code for _, _, code in read_blocks() if word in code]
    return code
