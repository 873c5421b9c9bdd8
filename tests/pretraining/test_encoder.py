"""A new encoder and its vocabulary, and words that are added to one that is there."""

import pytest
import torch
from test_pretraining import make_masked_lm
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import PreTrainedTokenizerFast

from smsa.pretraining.encoder import add_words, build_tokenizer


@pytest.mark.parametrize("model_type, n_spare", [("bert", 9), ("modernbert", 0)])  # rows to spare, as indobert's
def test_new_words_keep_old_embeddings_and_start_as_the_mean_of_their_tokens(model_type, n_spare):
    tokenizer = build_tokenizer(["enak gaco", "warung cor"] * 5)
    model, _ = make_masked_lm(model_type, tokenizer)
    n_known = len(tokenizer)
    model.resize_token_embeddings(n_known + n_spare)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    outputs.bias.data.normal_()
    before = [rows.detach().clone() for rows in (inputs.weight, outputs.weight, outputs.bias)]
    token_ids = tokenizer.encode("gacor", add_special_tokens=False)
    assert len(token_ids) > 1
    with pytest.raises(ValueError, match="'dua kata' is not a single word"):
        add_words(model, tokenizer, ["dua kata"])
    # `enak` is known; Gacor is gacor in lower case; a word with a strange character has been [UNK] so far; of the last
    # two nothing is read
    assert add_words(model, tokenizer, ["gacor", "enak", "Gacor", "gacor", "gaco👍", "@user", "!!!"]) == 2
    new_id, emoji_id = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("gacor", "gaco👍"))
    assert tokenizer.encode("gacorlah", add_special_tokens=False)[0] != new_id  # only a word of its own
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.vocab_size == n_known + max(n_spare, 2)
    outputs = model.get_output_embeddings()
    for after, rows in zip((model.get_input_embeddings().weight, outputs.weight, outputs.bias), before, strict=True):
        assert torch.equal(after[:n_known], rows[:n_known])
        assert torch.equal(after[new_id], rows[token_ids].mean(0))
        assert torch.equal(after[emoji_id], rows[tokenizer.unk_token_id])


def test_a_byte_level_tokenizer_splits_new_words_as_they_stand_in_a_text():
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(["enak gacor sekali", "enak gaco"] * 5, vocab_size=290, show_progress=False)
    special = dict(unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", mask_token="<mask>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend.to_str()), **special)
    model, _ = make_masked_lm("roberta", tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    inside = tokenizer.encode("enak sekali baper", add_special_tokens=False)[2:]  # with the space before it
    assert len(inside) > 1
    around = [tokenizer.encode(text, add_special_tokens=False) for text in ("enak", " sekali")]
    assert add_words(model, tokenizer, ["baper"]) == 1
    new_id = len(before)
    assert tokenizer.encode("enak baper sekali", add_special_tokens=False) == [*around[0], new_id, *around[1]]
    assert torch.equal(model.get_input_embeddings().weight[new_id], before[inside].mean(0))
