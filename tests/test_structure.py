"""Imports in smsa/ point down: a room imports only rooms below it and the root. setup.cfg matches the files."""

import configparser
import re
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
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})
# Matches imports within functions, too. ruff has formatted the files, so each line imports from one module.
IMPORT = re.compile(r"^\s*(?:from|import) (smsa|scripts|benchmarks|tests|\.)(?:\.| import )?(\w*)", re.MULTILINE)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path):
    room, *_ = (*path.parent.relative_to(PACKAGE).parts, "")
    below = ROOMS_BELOW[room] | {room}  # a KeyError means that a new room is missing above
    for package, module in IMPORT.findall(path.read_text(encoding="utf-8")):
        is_root = (PACKAGE / f"{module}.py").is_file()
        assert package == "smsa" and module and (module in below or is_root)


def test_an_installation_has_every_file_of_the_package():
    patterns = SETUP["options.package_data"]["smsa"].split()
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len(there) > 10 and there <= installed


def test_a_space_needs_what_the_package_needs():
    extras = SETUP["options.extras_require"]
    needed = "\n".join([SETUP["options"]["install_requires"], extras["demo"], extras["openvino"]]).split("\n")
    listed = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert listed[1:] == [line for line in needed if line]
