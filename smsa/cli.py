"""Parse a YAML recipe and the command line into dataclasses; turn errors of the user into one line and a status.

A recipe is read as options in front of those of the command line. So both have the same names, types and checks, and
the command line wins.
"""

import difflib
import gc
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
import yaml
from huggingface_hub.errors import HTTPError
from transformers import HfArgumentParser

from smsa.errors import UserError
from smsa.runtime import rank

_RANGES = (  # what is accepted, in words and as a check; the options
    ("more than 0", lambda value: 0 < value < math.inf, "learning_rate lr_gamma adam_epsilon num_train_epochs"),
    ("at least 0", lambda value: 0 <= value < math.inf, "max_grad_norm rdrop_alpha weight_decay warmup_steps "
     "decay_steps early_stopping_patience dataloader_num_workers"),
    ("at least 0 and below 2**32", lambda value: 0 <= value < 2**32, "seed data_seed"),  # numpy's limits
    ("at least 1", lambda value: 1 <= value < math.inf, "per_device_train_batch_size per_device_eval_batch_size "
     "gradient_accumulation_steps lr_step_size evaluate_every num_threads"),
    ("at least 1, or -1 for no limit", lambda value: value >= 1 or value == -1, "max_steps"),  # Trainer takes 0 as 1
    ("at least 8", lambda value: value >= 8, "max_length"),  # tokens in a row of pre-training
    ("at least 0 and below 1", lambda value: 0 <= value < 1, "adam_beta1 adam_beta2 ema_decay label_smoothing_factor"),
    ("more than 0 and below 1", lambda value: 0 < value < 1, "mlm_probability held_out"),
)  # fmt: skip


def require_ranges(arguments: object) -> None:
    """Refuse numbers out of range, and NaN; None means not given.

    Raises:
        UserError: naming the option, its value and what is accepted.
    """
    for words, is_within, names in _RANGES:
        for name in names.split():
            value = getattr(arguments, name, None)
            if value is not None and not is_within(value):
                raise UserError(f"{name} is {value}; it must be {words}.")


def parse(*kinds: type, argv: list[str] | None = None, description: str | None = None) -> tuple:
    """Parse `[RECIPE.yaml] [--option VALUE ...]` into one object of each dataclass in `kinds`.

    Args:
        kinds: dataclasses whose fields are the options.
        argv: the words of the command line; None takes those of this process.
        description: what --help says first.

    Returns:
        Instances of the dataclasses, in the order of `kinds`.

    Raises:
        SystemExit: with status 2 for an unknown or malformed option or recipe, and a message that gives the nearest
            valid name; with status 0 for --help.
    """
    usage = "%(prog)s [RECIPE.yaml] [--option VALUE ...]"
    parser = HfArgumentParser(kinds, allow_abbrev=False, usage=usage, description=description)
    parser.add_argument("recipe", nargs="?", help="YAML file of options; the command line wins over it.")
    options = [action.dest for action in parser._actions if action.dest not in ("help", "recipe")]
    lists = {action.dest for action in parser._actions if action.nargs == "+"}
    parser._negative_number_matcher = re.compile(r"-\d")  # argparse's own takes -1,0,1 for an option
    argv = sys.argv[1:] if argv is None else argv
    try:
        for name in lists:
            given = [" ".join(argv[i : i + 2]) for i, word in enumerate(argv) if word.split("=")[0] == f"--{name}"]
            if len(given) > 1 or any(re.fullmatch(r"--\w+[ =]\d+(,\d+)+", words) for words in given):
                raise UserError(f"--{name} takes its values with blanks between them, once: --{name} A B.")
        if argv and not argv[0].startswith("-"):
            argv = _recipe_words(Path(argv[0]), options, lists) + argv[1:]
        # expand ~ also after a = and in a recipe, where a shell does not
        argv = [re.sub(r"^(--\w+=)?~(?=/)", lambda found: f"{found[1] or ''}{Path.home()}", word) for word in argv]
        *objects, rest, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
        for word in unknown:
            raise UserError(f"{word.split('=')[0]} is not an option{_nearest(word, options)}")
        if rest.recipe:
            raise UserError(f"{rest.recipe!r} belongs to no option: a recipe comes first, and commas separate labels.")
        return tuple(objects)
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        found = f"{error.doc} is not JSON: " if isinstance(error, json.JSONDecodeError) else ""  # shells remove quotes
        parser.exit(2, f"{parser.prog}: error: {found}{error}\n")


def _recipe_words(path: Path, known: list[str], lists: set[str]) -> list[str]:
    """Return a recipe as the words of a command line."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise UserError(f"{path} is not a recipe: give a .yaml file that exists. Options begin with --.")
    with path.open("rb") as stream:  # bytes, of UTF-8 or (from PowerShell) UTF-16
        # nodes know their lines and keep values as strings: YAML would make a boolean of `precision: no`
        recipe = yaml.compose(stream, Loader=yaml.BaseLoader)
    if recipe is not None and not isinstance(recipe, yaml.MappingNode):
        raise UserError(f"{path}: a recipe is a list of 'option: value' lines, found a {recipe.id}.")
    words, lines = [], {}
    for key, value in recipe.value if recipe else ():
        name, line = key.value, key.start_mark.line + 1
        if name not in known:
            raise UserError(f"{path}, line {line}: {name!r} is not an option{_nearest(str(name), known)}")
        if lines.setdefault(name, line) != line:  # YAML silently takes the last of two
            raise UserError(f"{path}, line {line}: {name} is also in line {lines[name]}: keep one.")
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            raise UserError(f"{path}, line {line}: {name} must be values, or JSON such as '{{\"min_lr\": 1e-6}}'.")
        values = [item.value for item in items]
        if values not in ([""], ["null"], ["~"]):
            words += [f"--{name}", *values] if name in lists else [f"--{name}={','.join(values)}"]
    return words


def _nearest(name: str, known: list[str]) -> str:
    """Return words on the options that `name` abbreviates (`lr`, `epochs`, `batch_size`), or on the most similar."""
    name = name.lstrip("-").split("=")[0].replace("-", "_")
    by_initials = [option for option in known if name == "".join(word[0] for word in option.split("_"))]
    by_words = [option for option in known if f"_{name}" in f"_{option}"]
    matches = list(dict.fromkeys(by_initials + by_words))[:3] or difflib.get_close_matches(name, known, n=1)
    return f"; the nearest is {' or '.join(matches)}. --help lists them all." if matches else ". --help lists them all."


_LOST = "; another rank has ended: its line, if any, says why. The same command resumes; training needs --resume auto."
_FAULTS = (  # errors that are not bugs: type, words that the message has, and a way out to add to it
    ((UserError, OSError), "", ""),
    (ImportError, "install", ""),  # a missing library that an option or a proxy needs
    (RuntimeError, "to be installed", ""),  # a missing library that report_to needs
    (ValueError, "is not supported, only", ""),  # an unknown name in report_to
    (RuntimeError, "working C++ compiler", ": install g++, or leave --torch_compile out."),
    (HTTPError, "", " (from the Hub). The same command tries again."),  # a download was cut again and again
    (torch.OutOfMemoryError, "", " Divide --per_device_train_batch_size and multiply "
     "--gradient_accumulation_steps by the same number: the recipe stays as it is."),
    (dist.DistError, "", _LOST),
    (RuntimeError, "gloo", _LOST),
)  # fmt: skip


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Set up logging; end a script with status 1 and one line on an error of the user, a file, a disk or the network.

    Progress is logged on the main process; of other ranks and of libraries, only what failed. A bug shows its
    traceback, and so does a broken pipe other than stdout. At the end the process group is destroyed, since torch may
    abort at exit otherwise.

    Raises:
        SystemExit: in place of the errors in `_FAULTS`, and of Ctrl-C.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("smsa").setLevel(logging.ERROR if rank() else logging.INFO)
    transformers.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    transformers.logging.disable_progress_bar()
    try:
        yield
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error  # as from a shell
    except BrokenPipeError:
        try:
            print(flush=True)  # fails if nobody reads stdout any more, as in `| head`
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
            raise SystemExit(0) from error
        raise
    except Exception as error:
        for kind, words, way_out in _FAULTS:
            if isinstance(error, kind) and words in str(error):
                reason = str(error).partition("\n")[0] + way_out if way_out else error
                raise SystemExit(f"error{f' (rank {rank()})' if rank() else ''}: {reason}") from error
        raise
    if dist.is_initialized():
        gc.collect()  # a DDP model would keep the group alive
        dist.destroy_process_group()
