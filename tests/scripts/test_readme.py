"""Every command of README.md and of the pages in docs/ runs as printed in a clean clone; every link leads somewhere.

Those that need SmSA are run by test_recipes.py.
"""

import re

import pytest
from processes import ROOT, run, run_here, run_in

from docs.regenerate import BLOCK

# In the order in which they are run. The tutorials have a test of their own.
NAMES = ("training", "scaling", "pretraining", "prediction", "attribution", "evaluation", "sharing", "speed", "models")


def read_blocks(*names: str) -> list[tuple[str, str, str]]:
    """Return (needs, language, code) of each bash and python block; `needs` is empty where nothing is needed."""
    blocks = [block for name in names for block in BLOCK.finditer((ROOT / name).read_text(encoding="utf-8"))]
    return [(block["needs"] or "", block["language"], block["code"]) for block in blocks]


BLOCKS = read_blocks("README.md", *(f"docs/{name}.md" for name in NAMES))
OWN_TESTS = ("make quickstart", "python3 -m venv")
README_BYTES, TREE_LINES = 10_240, 20


@pytest.mark.slow(1200)
def test_quickstart_runs_in_a_clean_clone_and_shows_what_is_right_and_wrong(clone):
    assert "make quickstart" in BLOCKS[0][2]
    (clone / "runs" / "quickstart" / "of-an-earlier-one").mkdir(parents=True)
    text = run_in(clone, "make quickstart", SMSA_DATA_DIR="")
    n_texts, n_right, n_wrong = map(int, re.search(r"Of the (\d+) .* has (\d+) right\s+and (\d+) wrong", text).groups())
    assert (n_texts, n_right + n_wrong) == (66, 66) and n_right > 48
    rows = re.findall(r"^  (\w+) +[01]\.\d\d  (right|WRONG, a person says (\w+)) ", text, re.MULTILINE)
    for (label, verdict, right), gold in zip(rows, ("positive", "neutral", "negative"), strict=True):
        assert (verdict == "right") == (label == gold) and right in ("", gold)
    assert "scripts/finetune.py recipes/mini.yaml" in text


@pytest.mark.slow(1200)
def test_the_environment_can_be_made_without_make(tmp_path):
    """pip finds torch, in the version of the constraints; the rest is what `make` has installed, with the same line."""
    (code,) = [code for _, _, code in BLOCKS if "python3 -m venv" in code]
    *first, last = code.splitlines()
    text = run("bash", "-euc", "\n".join(first), cwd=tmp_path, timeout=1100, PIP_RETRIES="0", PIP_DRY_RUN="1")
    (version,) = re.findall(r"^Would install .*\btorch-([\d.]+)", text, re.MULTILINE)
    assert f"torch=={version}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert last.removeprefix(".venv/bin/pip install ") in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.slow(1800)
@pytest.mark.parametrize("needs, language, code", BLOCKS, ids=[code.split("\n")[0][-60:] for _, _, code in BLOCKS])
def test_blocks_run_as_printed(clone, tmp_path, needs, language, code):
    if code.startswith(OWN_TESTS):
        pytest.skip("has a test of its own; `make test` is what runs the tests")
    if needs:
        pytest.skip(f"needs {needs}")
    if language == "python":  # twice, as a cell of a notebook may be
        (tmp_path / "block.py").write_text(code, encoding="utf-8")
        code = f"python -c \"code = open('{tmp_path}/block.py').read(); exec(code); exec(code)\""
    run_in(clone, code)


def test_options_of_blocks_that_cannot_run_exist():
    """A block that needs the Hub or GPUs, in the tutorial too, names options that its script has, and files there."""
    blocks = [code for needs, _, code in [*BLOCKS, *read_blocks("docs/tutorial.md")] if needs]
    commands = re.findall(r"(.*?)(scripts/\w+\.py) ?(.*)", "".join(blocks).replace("\\\n", " "))
    assert {"scripts/finetune.py", "scripts/predict.py", "scripts/push.py"} <= {script for _, script, _ in commands}
    for before, script, words in commands:
        printed = run_here(script, "--help")
        assert all(re.search(rf"{option}\b", printed) for option in re.findall(r"--\w+", words.split(";")[0])), words
        assert all((ROOT / path).is_file() for path in re.findall(r"(?:recipes|configs)/\S+", before + words)), words


@pytest.mark.parametrize("name", ["README.md", "README.id.md"])
def test_readme_is_short_has_the_blocks_of_the_other_and_names_every_room_and_recipe(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.encode()) <= README_BYTES and read_blocks(name) == read_blocks("README.md")
    (tree,) = re.findall(r"^```\n(recipes/.*?)```", text, re.DOTALL | re.MULTILINE)
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    rooms = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "smsa").glob("*/__init__.py")}
    assert len(tree.splitlines()) <= TREE_LINES
    assert rooms <= named and all((ROOT / path).is_dir() for path in named)
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {"pretrain-mini"}
    (table,) = re.findall(r"^\| (?:recipe|resep) \|.*?\n\n", text, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == recipes


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]  # as GitHub's
            assert target.exists() and (not anchor or anchor in anchors), link
