"""A new encoder and its word pieces; or one that is there, with words of its own."""

import logging

import numpy as np
import torch
from tokenizers import Regex, normalizers
from transformers import (
    AddedToken,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from smsa.data.normaliser import set_normaliser, shorten_elongated
from smsa.errors import UserError
from smsa.models.scratch import embed_pieces, set_word_vectors, train_vocabulary

logger = logging.getLogger(__name__)

CLITIC = r"(?<=\p{L}) +nya\b"  # SmSA and some of the corpora write it apart; joined, both styles are the same pieces
FINE_TUNING_DROPOUT = 0.2  # of a new encoder; 0.1 was as good for an earlier one
VECTOR_SCALE = 2.0  # better than 1 and as good as 4 after 400 steps: docs/mini.md


def build_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn the word pieces of a new encoder; equal texts give equal ones.

    Its normaliser lower-cases, writes drawn-out letters once, and attaches the clitic `nya`, so that a text is the same
    pieces however these were written.
    """
    normaliser = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True),
            shorten_elongated(),
            normalizers.Replace(Regex(CLITIC), "nya"),
        ]
    )
    vocabulary = train_vocabulary([normaliser.normalize_str(text) for text in texts], vocab_size)
    names = ["input_ids", "attention_mask"]
    return set_normaliser(BertTokenizer(vocab=vocabulary, model_max_length=512, model_input_names=names), normaliser)


def build_encoder(
    sequences: list[list[int]], tokenizer: PreTrainedTokenizerBase, hidden_size: int, **shape: int
) -> ModernBertForMaskedLM:
    """Build a ModernBERT whose word vectors and bias start from counts in the texts, all else at random; seed first.

    Args:
        sequences: word pieces of each training text, without special tokens.
        tokenizer: whose pieces they are.
        hidden_size, **shape: widths and number of layers, by their names in `ModernBertConfig`.
    """
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        max_position_embeddings=tokenizer.model_max_length,
        layer_types=["full_attention"] * shape["num_hidden_layers"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
        classifier_pooling="mean",
        norm_bias=True,  # without biases a few numbers of each state grow huge in their place: docs/mini.md
        mlp_bias=True,
        attention_bias=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        **shape,
    )
    model = ModernBertForMaskedLM(config)
    set_word_vectors(model, embed_pieces(sequences, config.vocab_size, config.hidden_size), VECTOR_SCALE)
    counts = np.bincount(np.concatenate(sequences), minlength=config.vocab_size) + 1
    model.get_output_embeddings().bias.data.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    # Without dropout so far, which would slow learning. Fine-tuning builds its modules from these.
    for name in ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"):
        setattr(config, name, FINE_TUNING_DROPOUT)
    logger.info("Encoder: new, %s parameters, %s word pieces", f"{model.num_parameters():,}", f"{len(tokenizer):,}")
    return model


def add_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str]) -> int:
    """Make word pieces of their own of words that have been cut into several; get how many these were.

    The rows of all pieces that were there stay as they are. That of a new one, in the output too, is the mean of those
    of the pieces that it was cut into, as it is in the middle of a text; pieces that are not known do not count.

    Raises:
        ValueError: for a word with a space in it.
    """
    bad = [word for word in words if len(word.split()) != 1]
    if bad:
        raise UserError(f"--add_tokens: {bad[0]!r} is not a single word; give one a line.")
    normaliser = tokenizer.backend_tokenizer.normalizer
    words = list(dict.fromkeys(normaliser.normalize_str(word) if normaliser else word for word in words))
    pieces = {}
    for word in words:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        known = [i for i in ids if i != tokenizer.unk_token_id]
        if len(ids) > 1 or not known:
            pieces[word] = known or ids
    # lstrip: a byte-level tokenizer would leave a piece of its own for the space
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=True, normalized=True) for word in pieces])
    new_ids = {word: tokenizer.convert_tokens_to_ids(word) for word in pieces}
    before = _rows_of_words(model)
    n_rows = max(len(tokenizer), model.config.vocab_size)  # some encoders have rows to spare
    model.resize_token_embeddings(n_rows, mean_resizing=False)
    with torch.no_grad():
        for after, rows in zip(_rows_of_words(model), before, strict=True):
            for word, ids in pieces.items():
                after[new_ids[word]] = rows[ids].mean(0)
    return len(pieces)


def _rows_of_words(model: PreTrainedModel) -> list[torch.Tensor]:
    """What has a row for each word piece: the input's weight, and weight (maybe the same) and bias of the output."""
    outputs = model.get_output_embeddings()
    return [model.get_input_embeddings().weight, outputs.weight] + ([] if outputs.bias is None else [outputs.bias])
