"""Imports in smsa/ point down: each room imports only the rooms below it and the modules at the root."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "smsa"
ROOMS_BELOW = {
    "": set(),  # the root's own modules
    "data": set(),
    "models": {"data"},
    "training": {"data", "models"},
    "pretraining": {"data", "models", "training"},
    "inference": {"data", "models"},
    "evaluation": {"data", "models", "training", "inference"},
    "sharing": {"data", "models", "training", "pretraining", "inference", "evaluation"},
    "demo": {"data", "models", "inference", "evaluation"},
}
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


def list_imports(source: str) -> Iterator[str]:
    """Yield the full name of all that a module imports, within functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_room(name: str) -> str | None:
    """Return the room of an imported name: "" is the root, "api" smsa/__init__.py, None another package."""
    package, *parts = name.split(".")
    if package != "smsa" or not parts:
        return "api" if package == "smsa" else None
    if parts[0] in ROOMS_BELOW:
        return parts[0]
    return "" if (PACKAGE / f"{parts[0]}.py").exists() else "api"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    folder = path.parent.relative_to(PACKAGE).parts
    room = folder[0] if folder else ""
    names = list(list_imports(path.read_text(encoding="utf-8")))
    assert {find_room(name) for name in names} <= {None, "", room, *ROOMS_BELOW[room]}
    assert not {name.split(".")[0] for name in names} & {"scripts", "benchmarks", "tests"}


def test_every_module_is_in_a_known_room():
    rooms = {path.parent.name for path in MODULES} - {"smsa"}
    assert rooms and rooms <= set(ROOMS_BELOW)


def test_all_forms_of_import_are_seen():
    source = "import smsa.demo\nfrom smsa import LABELS, files\ndef load():\n    from smsa.training.trainer import X"
    assert [find_room(name) for name in list_imports(source)] == ["demo", "api", "", "training"]


def test_an_installation_has_every_file_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["smsa"].split()
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len(there) > 10 and there <= installed
