"""Normalisers that live in a tokenizer, so that every client applies them."""

import json

from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from smsa.errors import UserError

# All but the last of three or more equal letters: no Indonesian word has three. Digits and dots stay; the price is paid
# by Roman numerals (III) and www.
_ELONGATED = r"(\p{L})\1+(?=\1)"

# What tells not praise from blame: links, or what data sets leave of one; mentions; hashtags, but not the word of one
# that begins a text; exclamation marks; what is left of an emoji that an encoding lost ("??"), or that another follows.
_SILENT = "https?\\S*|www\\.\\S+|(?<!\\w)(rt +)?@\\w+:?|(?<=\\S) +#\\w+|#|!+|\\?{2,}|\ufffd|\ufe0f"
# All but the last of some equal letters or signs, and the space before punctuation and a clitic, as SmSA writes them;
# and what nobody sees: soft hyphens, marks of direction, byte-order marks, joiners but the one of emoji.
_UNSEEN = r"[\u00ad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
_REPEATED = rf"{_UNSEEN}|{_ELONGATED}|([^\p{{L}}\p{{N}}\s])\2*(?=\2)|\s+(?=[.,!?])|(?<=\p{{L}}) +(?=nya\b)"


def write_plainly() -> list[normalizers.Normalizer]:
    """Return the normalisers, for lower case, after which a text has the same tokens however it was typed or shared."""
    steps = {_SILENT: " ", _REPEATED: "", r"\s+": " "}
    return [*(normalizers.Replace(Regex(pattern), new) for pattern, new in steps.items()), normalizers.Strip()]


def set_normaliser(tokenizer: PreTrainedTokenizerBase, normaliser: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """Return a tokenizer that has this normaliser and is `tokenizer` in all else."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normaliser
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def add_normaliser(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """Return `tokenizer` with elongated letters written once ("enaaak" as "enak"), after all that it did before.

    Raises:
        UserError: if it does so already.
    """
    backend = tokenizer.backend_tokenizer
    if json.dumps(_ELONGATED).strip('"') in json.dumps(json.loads(backend.to_str())["normalizer"]):
        raise UserError("the tokenizer has the normaliser already: leave --normalise_elongated out.")
    before = [backend.normalizer] if backend.normalizer else []
    return set_normaliser(tokenizer, normalizers.Sequence([*before, normalizers.Replace(Regex(_ELONGATED), "")]))
