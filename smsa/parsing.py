"""The words of a command line, and a YAML recipe before them -> options.

A recipe is read as options that stand in front of the command line, so both take the same names, the same types and the
same checks, and the command line wins.
"""

import argparse
import dataclasses
import difflib
import sys
from dataclasses import field
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """One short spelling an option, without its metavar repeated for each alias."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        if action.nargs in (0, "?"):  # switches
            return ", ".join(action.option_strings) if action.dest == "help" else action.option_strings[0]
        accepted = f"{{{','.join(action.choices)}}}" if action.choices else action.type.__name__.upper()
        return f"{action.option_strings[0]} {accepted}{' ...' * (action.nargs == '+')}"

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.nargs == 0 and action.dest != "help":
            return f"The opposite of --{action.dest}."
        return action.help if action.default is None else super()._get_help_string(action)


def parse_arguments(
    options: dict[str, tuple[type, tuple[str, ...]]],
    argv: list[str] | None = None,
    description: str | None = None,
    usage: str = "%(prog)s [RECIPE.yaml] [--option VALUE ...]",
) -> tuple:
    """Parse `[RECIPE.yaml] [--option VALUE ...]` into one object of each dataclass in `options`.

    Args:
        options: for each group of --help, the dataclass and the names of its fields that are options.
        argv: the words of the command line; None takes those of this process.
        description: what --help says first.
        usage: what stands above it.

    Returns:
        Instances of the dataclasses, in the order of their first group.

    Raises:
        SystemExit: with status 2 and a message for an unknown or malformed option or recipe, which names the nearest
            valid name; with status 0 for --help.
    """
    hints = {kind: get_type_hints(kind) for kind, _ in options.values()}
    groups = []
    for title, (kind, names) in options.items():
        fields = {f.name: f for f in dataclasses.fields(kind)}
        group = dataclasses.make_dataclass(
            kind.__name__,
            [(n, hints[kind][n], field(default=fields[n].default, metadata=fields[n].metadata)) for n in names],
            namespace={"_argument_group_name": title},
        )
        groups.append((kind, group))
    parser = HfArgumentParser(
        [group for _, group in groups],
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        usage=usage,
        description=description,
    )
    parser.add_argument("recipe", nargs="?", help="YAML file of options; those on the command line win over it.")

    argv = sys.argv[1:] if argv is None else argv
    known = [name for _, names in options.values() for name in names]
    lists = [name for name in known if any(_is_list(hints[kind].get(name)) for kind in hints)]
    try:
        for name in lists:
            if sum(word.split("=")[0] == f"--{name}" for word in argv) > 1:
                raise ValueError(f"--{name} is given twice; write --{name} A B.")
        if argv and not argv[0].startswith("-"):
            argv = _recipe_words(Path(argv[0]), known, lists) + argv[1:]
        values, unknown = parser.parse_known_args(argv)
        for word in unknown:
            raise ValueError(f"{word.split('=')[0]} is not an option{_nearest(word, known)}")
        if values.recipe:
            raise ValueError(f"{values.recipe!r} belongs to no option; a recipe stands before all options.")
        values = vars(values)
        chosen: dict[type, dict] = {}
        for kind, group in groups:
            chosen.setdefault(kind, {}).update({f.name: values[f.name] for f in dataclasses.fields(group)})
        return tuple(kind(**kwargs) for kind, kwargs in chosen.items())
    except (ValueError, OSError, RuntimeError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _is_list(hint: object) -> bool:
    return get_origin(hint) is list or any(get_origin(option) is list for option in get_args(hint))


def _recipe_words(path: Path, known: list[str], lists: list[str]) -> list[str]:
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{path} is no recipe, which ends in .yaml; options begin with --, and --help lists them.")
    if not path.is_file():
        there = ", ".join(sorted(map(str, path.parent.glob("*.yaml")))) or "no recipe"
        raise ValueError(f"{path} does not exist; {path.parent} has {there}.")
    try:
        # BaseLoader leaves every value a string: YAML would make a boolean of `precision: no`
        text = path.read_text(encoding="utf-8")
        recipe = yaml.load(text, Loader=yaml.BaseLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a list of 'option: value' lines, found {type(recipe).__name__}.")
    for key in recipe:
        if key not in known:
            raise ValueError(f"{path}: {key!r} is not an option{_nearest(str(key), known)}")
    seen = {}
    for key, _ in yaml.compose(text, Loader=yaml.BaseLoader).value if recipe else ():  # of two, YAML takes the last
        line = key.start_mark.line + 1
        if seen.setdefault(key.value, line) != line:
            raise ValueError(f"{path}, line {line}: {key.value} stands in line {seen[key.value]}, too: keep one.")
    words = []
    for key, value in recipe.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise ValueError(f"{path}: {key} is neither a value nor a list of values, found {value!r}.")
        if key in lists and isinstance(value, list):
            words += [f"--{key}", *value]
        elif value not in ("", "null"):
            words.append(f"--{key}={','.join(value) if isinstance(value, list) else value}")
    return words


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name.lstrip("-").split("=")[0].replace("-", "_"), known, n=1)
    return f"; the nearest is {matches[0]}. --help lists them all." if matches else ". --help lists them all."
