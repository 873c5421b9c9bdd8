"""A normaliser for texts as people write them that lives in a model's tokenizer, so that every client applies it."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from smsa.files import replace_files, staged
from smsa.model import load_classifier, save_tokenizer
from smsa.normaliser import DRAWN_OUT, set_normaliser


def add_normaliser(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Get a tokenizer that writes drawn-out letters once ("enaaak" as "enak") and is `tokenizer` in all else.

    Raises:
        ValueError: if it does so already.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    before = backend.normalizer
    if DRAWN_OUT in _normaliser_of(backend):
        raise ValueError("the tokenizer has the normaliser already.")
    shorten = normalizers.Replace(Regex(DRAWN_OUT), "")
    return set_normaliser(tokenizer, normalizers.Sequence([before, shorten] if before else [shorten]))


def has_normaliser(folder: str | Path) -> bool:
    """Whether `store_normaliser` has put the normaliser into the tokenizer of a model folder."""
    path = Path(folder) / "tokenizer.json"
    return path.is_file() and DRAWN_OUT in _normaliser_of(Tokenizer.from_file(str(path)))


def _normaliser_of(backend: Tokenizer) -> str:
    """All strings of the normaliser, as they are, one after the other."""
    found, pending = [], [json.loads(backend.to_str())["normalizer"]]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            found.append(value)
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "\n".join(found)


def store_normaliser(folder: str | Path) -> None:
    """Put the normaliser into the tokenizer of a model folder, for good: pipeline, exports and smsa all apply it.

    Args:
        folder: a fine-tuned model on this machine.

    Raises:
        ValueError: as `add_normaliser`, and as `load_classifier`.
    """
    folder = Path(folder)
    _, tokenizer = load_classifier(folder)
    with staged(folder) as staging:
        save_tokenizer(add_normaliser(tokenizer), staging)
        # in this order: a tokenizer_class of before does not look at the normaliser
        replace_files(staging, folder, ("tokenizer.json", "tokenizer_config.json"))
