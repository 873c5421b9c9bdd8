"""Normalisers that live in a tokenizer, so that every client applies them."""

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# All but the last of three or more equal letters: no Indonesian word has three. Digits and dots stay; the price is paid
# by Roman numerals (III) and www.
DRAWN_OUT = r"(\p{L})\1+(?=\1)"


def set_normaliser(tokenizer: PreTrainedTokenizerBase, normaliser: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """Get a tokenizer that has this normaliser and is `tokenizer` in all else."""
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
