"""Build a new encoder and its vocabulary, or add words to the vocabulary of an existing encoder."""

import torch
from tokenizers import normalizers
from transformers import (
    AddedToken,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from smsa.data.normaliser import set_normaliser, write_plainly
from smsa.errors import UserError
from smsa.models.scratch import train_vocabulary

# For a new encoder
VOCAB_SIZE = 12_000
SHAPE = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 384}
FINE_TUNING_DROPOUT = 0.2  # 0.1 was as good for an earlier encoder


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerBase:
    """Learn the vocabulary of a new encoder; equal texts give equal vocabularies.

    Its normaliser lower-cases and applies `write_plainly`: a text has the same tokens however it was typed or shared.
    """
    normaliser = normalizers.Sequence([normalizers.BertNormalizer(lowercase=True), *write_plainly()])
    vocabulary = train_vocabulary([normaliser.normalize_str(text) for text in texts], VOCAB_SIZE)
    names = ["input_ids", "attention_mask"]
    return set_normaliser(BertTokenizer(vocab=vocabulary, model_max_length=512, model_input_names=names), normaliser)


def build_encoder(tokenizer: PreTrainedTokenizerBase) -> ModernBertForMaskedLM:
    """Build a random ModernBERT for the tokens of `tokenizer`; seed first."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        layer_types=["full_attention"] * SHAPE["num_hidden_layers"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
        classifier_pooling="mean",
        norm_bias=True,  # without biases, a few values of each hidden state grow huge: docs/models.md
        mlp_bias=True,
        attention_bias=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        **SHAPE,
    )
    model = ModernBertForMaskedLM(config)
    # Dropout would slow pre-training, so the model has none; fine-tuning builds its modules from these values.
    for name in ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"):
        setattr(config, name, FINE_TUNING_DROPOUT)
    return model


def add_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str]) -> int:
    """Add to the vocabulary the words that the tokenizer splits or does not know; return their number.

    The new token's input and output embeddings are means over the tokens that the word was split into in the middle of
    a text, without unknown tokens.
    """
    normaliser = tokenizer.backend_tokenizer.normalizer
    token_ids = {}
    for word in words:
        if len(word.split()) != 1:
            raise UserError(f"--add_tokens: {word!r} is not a single word; give one per line.")
        word = normaliser.normalize_str(word) if normaliser else word
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        known = [i for i in ids if i != tokenizer.unk_token_id]
        if len(ids) > 1 or (ids and not known):  # not words that the normaliser drops, such as @user
            token_ids[word] = known or ids
    add_tokens(model, tokenizer, token_ids)
    return len(token_ids)


def add_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_ids: dict[str, list[int]]) -> None:
    """Add words as tokens that match only whole words; each embedding is the mean over the ids of its word."""
    # lstrip: a byte-level tokenizer would make a separate token of the space
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=True, normalized=True) for word in token_ids])
    n_rows = max(len(tokenizer), model.config.vocab_size)  # some encoders have rows to spare
    model.resize_token_embeddings(n_rows, mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]  # a bare encoder has no output embeddings
    with torch.no_grad():
        for rows in [rows for layer in filter(None, layers) for rows in layer.parameters()]:  # shared if tied
            for word, ids in token_ids.items():
                rows[tokenizer.convert_tokens_to_ids(word)] = rows[ids].mean(0)
