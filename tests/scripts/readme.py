"""The code blocks of README.md and the pages in docs/, each with what it needs to run."""

import re

from conftest import ROOT

BLOCK = re.compile(r"(?:<!-- needs: (?P<needs>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
# In the order in which they are run. The tutorials have a test of their own.
NAMES = ("training", "scaling", "pretraining", "prediction", "attribution", "evaluation", "sharing", "speed", "models")
PAGES = ("README.md", *(f"docs/{name}.md" for name in NAMES))


def read_blocks(*names: str) -> list[tuple[str, str, str]]:
    """Return (needs, language, code) of each bash and python block; `needs` is empty where nothing is needed."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in names]
    return [
        (match["needs"] or "", match["language"], match["code"]) for text in texts for match in BLOCK.finditer(text)
    ]
