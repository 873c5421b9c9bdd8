"""Texts of files -> rows of tokens to pre-train on: sources with weights, decontamination, held-out texts, packing."""

import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from transformers import PreTrainedTokenizerBase

from smsa.data.datasets import find_smsa
from smsa.data.formats import BadRow, BadRowsError
from smsa.data.reader import Source
from smsa.errors import UserError
from smsa.files import hash_file

logger = logging.getLogger(__name__)

NGRAM_SIZE = 8  # words in a row that make two texts overlap


@dataclass
class CorpusSource:
    """Texts of one origin."""

    name: str  # as it was given, without the weight
    weight: float  # how often an epoch sees each of its texts
    sha256: str  # of the file
    texts: list[str]  # as `read_texts` returns them


def read_sources(
    specs: Iterable[str],
    corpus_dir: str | None = None,
    data_dir: str | None = None,
    to_exclude: bool = False,
    **reading: str | None,
) -> list[CorpusSource]:
    """Read `FILE` or `FILE=WEIGHT`, `FOLDER/*`, or `smsa`; `$NAME` in a file's name is an environment variable.

    Args:
        corpus_dir: folder of relative names; None stands for $SMSA_CORPUS_DIR, else the working directory.
        data_dir: as in `find_smsa`.
        to_exclude: whether `smsa` stands for SmSA's valid and test, masked or not, in place of its train.
        reading: as in `read_texts`.
    """
    sources: list[CorpusSource] = []
    for spec in specs:
        name, _, weight = spec.partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise UserError(f"--sources {spec}: the weight {weight!r} is not a positive number.")
        if name == "smsa" and to_exclude:
            smsa = find_smsa(data_dir)
            smsa["masked test"] = smsa.pop("train").with_name("test_preprocess_masked_label.tsv")
            files = {f"SmSA's {split}": path for split, path in smsa.items() if path.is_file()}
        elif name == "smsa":
            files = {name: find_smsa(data_dir)["train"]}
        else:
            path = Path(corpus_dir or os.environ.get("SMSA_CORPUS_DIR", "."), os.path.expandvars(name))
            found = [] if path.is_file() else filter(os.path.isfile, sorted(glob.glob(str(path))))
            # a shell expands patterns only relative to the working directory
            files = {str(Path(name).with_name(Path(file).name)): Path(file) for file in found} or {name: path}
        for origin, path in files.items():
            if origin in {source.name for source in sources}:
                raise UserError(f"--sources names {origin} twice; give it a weight instead: {origin}=2.")
            if not path.is_file():
                way_out = "name its folder with --corpus_dir or $SMSA_CORPUS_DIR; a $NAME must be exported"
                raise FileNotFoundError(f"{path} is not a file: {way_out}; FOLDER/* reads the files of a folder.")
            texts = read_texts(path, **({} if name == "smsa" else reading))
            sources.append(CorpusSource(origin, value, hash_file(path), texts))
    return sources


def read_texts(path: Path, **reading: str | None) -> list[str]:
    """Return the texts of a file of any known format, stripped of white space and without empty ones.

    Args:
        reading: text_column, sheet, as in `Source`.

    Raises:
        UserError: as `Source`; if there is no text, or a damaged one.
    """
    texts, bad_rows = [], []
    for chunk in Source(path, keep_lines=True, **reading).chunks():  # keep_lines: later rows may have other keys
        found = [(text or "").strip() for text in chunk.texts.to_pylist()]
        bad_rows += [row for _, row in chunk.bad_rows]
        hurt = [(line, text) for line, text in zip(chunk.lines.tolist(), found, strict=True) if "\0" in text]
        bad_rows += [BadRow(path, line, text, "the text holds a NUL character") for line, text in hurt]
        texts += filter(None, found)
    if bad_rows:
        raise BadRowsError(bad_rows, "Correct or remove them.")
    if not texts:
        raise UserError(f"{path} has no text.")
    return texts


def decontaminate(sources: list[CorpusSource], evaluation_texts: list[str]) -> None:
    """Exclude from the sources, in place, the texts that overlap with an evaluation text."""
    overlaps = find_overlaps(evaluation_texts)
    for source in sources:
        texts = [text for text in source.texts if not overlaps(text)]
        if n_excluded := len(source.texts) - len(texts):
            logger.info("%s: %s texts overlap with evaluation texts: excluded", source.name, f"{n_excluded:,}")
        source.texts = texts


def find_overlaps(evaluation_texts: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a text shares eight words in a row with an evaluation text.

    Case, punctuation and the space before `nya` do not count. A shorter text overlaps only with an equal one.
    """
    known = {ngram for text in evaluation_texts for ngram in _ngrams(text)}
    return lambda text: not known.isdisjoint(_ngrams(text))


def _ngrams(text: str) -> Iterator[tuple[str, ...]]:
    """Return all runs of eight words of a text, or all words of a shorter one; lower-cased, `nya` joined."""
    words = re.findall(r"\w+", re.sub(r"(?<=\w) +nya\b", "nya", text.lower()))
    return (tuple(words[i : i + NGRAM_SIZE]) for i in range(max(1, len(words) - NGRAM_SIZE + 1)))


def is_held_out(text: str, share: float) -> bool:
    """Return whether a text is held out for evaluation; equal texts are treated alike, in all sources."""
    return crc32(text.encode()) < share * 2**32


def pack(sequences: list[list[int]], max_length: int, cls_id: int, sep_id: int, seed: int) -> np.ndarray:
    """Join texts, given as token ids, in random order, [SEP] after each; cut them into rows that begin with [CLS].

    Rows are of shape (n_rows, max_length), int32; the last tokens, which do not fill a row, are dropped.
    """
    order = np.random.default_rng(seed).permutation(len(sequences))
    tokens = np.array([token for i in order for token in (*sequences[i], sep_id)], dtype=np.int32)
    n_rows = len(tokens) // (max_length - 1)
    rows = tokens[: n_rows * (max_length - 1)].reshape(n_rows, max_length - 1)
    return np.insert(rows, 0, cls_id, axis=1)


def encode_sources(
    sources: list[CorpusSource], tokenizer: PreTrainedTokenizerBase, max_length: int, held_out: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise and pack the training texts, each as often as its source's weight says, and the held-out texts."""
    special_ids = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    if None in (*special_ids, tokenizer.mask_token_id):
        raise UserError("the tokenizer lacks a cls, sep or mask token: choose another --model_name_or_path.")
    if max_length > tokenizer.model_max_length:
        raise UserError(f"--max_length is {max_length}, but this encoder reads {tokenizer.model_max_length} tokens.")

    def tokenise(texts: list[str]) -> list[list[int]]:
        quick = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        sequences = tokenizer(texts, add_special_tokens=False, **quick)["input_ids"] if texts else []
        return [sequence for sequence in sequences if sequence]

    train_sequences, held_out_sequences = [], []
    for source in sources:
        seen = tokenise([text for text in source.texts if not is_held_out(text, held_out)])
        whole, part = divmod(source.weight, 1)
        # the same part in every epoch: with a weight below 1, the other texts are never seen
        once_more = sorted(np.random.default_rng(seed).permutation(len(seen))[: round(part * len(seen))])
        train_sequences += seen * int(whole) + [seen[i] for i in once_more]
        held_out_sequences += tokenise([text for text in source.texts if is_held_out(text, held_out)])
    rows = pack(train_sequences, max_length, *special_ids, seed)
    held_out_rows = pack(held_out_sequences, max_length, *special_ids, seed)
    found = f"An epoch: {len(train_sequences):,} texts, {len(rows):,} rows of {max_length} tokens; "
    found += f"held out: {len(held_out_sequences):,} texts, {len(held_out_rows):,} rows"
    if not (len(rows) and len(held_out_rows)):
        way_out = f"give more texts, each on its own line, a lower --max_length or another --held_out than {held_out}"
        raise UserError(f"{found}. Both need at least one row: {way_out}.")
    logger.info(found)
    return rows, held_out_rows
