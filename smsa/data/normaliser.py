"""Normalisers that live in a tokenizer, so that every client applies them."""

import json

from tokenizers import Regex, Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from smsa.errors import UserError

# Matches all but the last of three or more equal letters, as no Indonesian word has three. Digits and dots stay; but
# Roman numerals (III) and www are shortened, too.
_ELONGATED = r"(\p{L})\1+(?=\1)"

# Parts that carry no sentiment: links, or what data sets leave of one; mentions; hashtags (of one that begins a text,
# only the #); exclamation marks; what a lossy encoding leaves of an emoji ("??", U+FFFD); variation selectors of emoji;
# tags and entities of HTML, as in comments from YouTube's API.
_TAGS = r"</?(?:a|b|br|div|em|h\d|hr|i|img|li|ol|p|span|strong|u|ul)(?:\s+[a-z][\w-]*=[^<>]*|\s*/?)>"
_ENTITIES = r"&(?:amp|quot|gt|nbsp|hellip|[lr][ds]quo|[mn]dash|#x?[\da-f]{1,6});"
_SOCIAL = r"https?[^\s<]*|www\.[^\s<]+|(?<!\w)(rt +)?@\w+:?|(?<=\S) +#\w+|#|!+|\?{2,}"
_SILENT = f"{_TAGS}|{_ENTITIES}|{_SOCIAL}|\ufffd|\ufe0f"
# Invisible characters: soft hyphens, direction marks, byte-order marks, and joiners except U+200D, which emoji need.
_UNSEEN = r"[\u00ad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
# Removed: these, all but the last of elongated letters or repeated signs, and spaces before punctuation or clitic nya.
_REPEATED = rf"{_UNSEEN}|{_ELONGATED}|([^\p{{L}}\p{{N}}\s])\2*(?=\2)|(?<!\s)\s+(?=[.,!?])|(?<=\p{{L}}) +(?=nya\b)"


def write_plainly() -> list[normalizers.Normalizer]:
    """Return normalisers for lower-case text, so that it has the same tokens however it was typed or shared."""
    steps = {"&lt;": "<", "&(apos|#0?39|#x27);": "'", _SILENT: " ", _REPEATED: "", r"\s+": " "}  # <3 is a heart
    return [*(normalizers.Replace(Regex(pattern), new) for pattern, new in steps.items()), normalizers.Strip()]


def set_normaliser(tokenizer: PreTrainedTokenizerBase, normaliser: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """Return a copy of `tokenizer` with this normaliser in place of its own."""
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
    """Return a copy of `tokenizer` whose last normaliser writes elongated letters once ("enaaak" as "enak").

    Raises:
        UserError: if `tokenizer` has this normaliser already.
    """
    backend = tokenizer.backend_tokenizer
    if json.dumps(_ELONGATED).strip('"') in json.dumps(json.loads(backend.to_str())["normalizer"]):
        raise UserError("the tokenizer has the normaliser already: leave --normalise_elongated out.")
    before = [backend.normalizer] if backend.normalizer else []
    return set_normaliser(tokenizer, normalizers.Sequence([*before, normalizers.Replace(Regex(_ELONGATED), "")]))
