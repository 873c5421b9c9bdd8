"""Plain text -> rows of word pieces to pre-train on: sources with weights, texts that are held out, packing."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from transformers import PreTrainedTokenizerBase

from smsa.data.datasets import find_smsa
from smsa.data.formats import BadRow, BadRowsError, is_unicode, read_lines
from smsa.errors import UserError
from smsa.files import hash_file

logger = logging.getLogger(__name__)

SMSA = "smsa"  # as a source it stands for SmSA's training texts, as something to keep out for its valid and test
_NOT_TEXT = (".csv", ".json", ".jsonl", ".parquet", ".xlsx", ".gz", ".zst", ".zip")
N_WORDS = 8  # in a row, that make two texts overlap


@dataclass
class Source:
    """Texts of one origin.

    Attributes:
        name: as it was given, without the weight.
        weight: how often an epoch sees a text of it.
        sha256: of the file.
        texts: one for each line that is not blank, without white space around it.
    """

    name: str
    weight: float
    sha256: str
    texts: list[str]


def read_sources(
    specs: Iterable[str], corpus_dir: str | Path | None = None, data_dir: str | Path | None = None
) -> list[Source]:
    """Read `FILE` or `FILE=WEIGHT`, each a text a line in UTF-8, or `smsa` for the training texts of SmSA.

    Args:
        specs: the sources.
        corpus_dir: folder in which relative names lie; None stands for $SMSA_CORPUS_DIR, else the working directory.
        data_dir: as in `find_smsa`.

    Raises:
        ValueError: for a weight that is no positive number, a file named twice or without any text; as `read_texts`.
        FileNotFoundError: if a file is missing.
        BadRowsError: for lines that are not valid UTF-8 or hold a NUL character.
    """
    sources: list[Source] = []
    for spec in specs:
        name, _, weight = spec.partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise UserError(f"--sources {spec}: the weight {weight!r} is not a positive number.")
        if name in {source.name for source in sources}:
            raise UserError(f"--sources names {name} twice; give it a weight instead: {name}=2.")
        path = find_smsa(data_dir)["train"] if name == SMSA else _find(name, corpus_dir)
        texts = read_texts(path)
        if not texts:
            raise UserError(f"{path} holds no text.")
        sources.append(Source(name, value, hash_file(path)[0], texts))
    return sources


def find_judged(
    specs: Iterable[str], corpus_dir: str | Path | None = None, data_dir: str | Path | None = None
) -> dict[str, Path]:
    """Find the files of `--keep_out` by name: those that are named, and for `smsa` its valid and test, masked or not.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    files = {}
    for name in specs:
        if name == SMSA:
            smsa = find_smsa(data_dir)
            masked = smsa["train"].parent / "test_preprocess_masked_label.tsv"
            smsa |= {"masked test": masked} if masked.is_file() else {}
            files |= {f"SmSA's {split}": path for split, path in smsa.items() if split != "train"}
        else:
            files[name] = _find(name, corpus_dir)
    return files


def _find(name: str, corpus_dir: str | Path | None) -> Path:
    path = Path(corpus_dir or os.environ.get("SMSA_CORPUS_DIR", "."), name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --corpus_dir (or $SMSA_CORPUS_DIR) names the folder.")
    return path


def read_texts(path: Path) -> list[str]:
    """Read a text a line, blank ones left out; of a .tsv, as SmSA's are, what stands before the last tab.

    Raises:
        ValueError: for a table or a packed file, whose lines are not its texts.
        BadRowsError: as `read_sources`.
    """
    if path.suffix in _NOT_TEXT:
        raise UserError(f"{path}: a {path.suffix} is not a text a line; write its texts into a .txt.")
    texts, bad_rows = [], []
    with path.open("rb") as stream:
        for line, content in read_lines(stream):
            text = (content.rpartition("\t")[0] if path.suffix == ".tsv" and "\t" in content else content).strip()
            if not is_unicode(text) or "\0" in text:
                reason = "the text holds a NUL character" if "\0" in text else "the text is not valid UTF-8"
                bad_rows.append(BadRow(path, line, text, reason))
            elif text:
                texts.append(text)
    if bad_rows:
        raise BadRowsError(bad_rows, "Mend or remove them.")
    return texts


def leave_out(sources: list[Source], judged: list[str]) -> None:
    """Take out of the sources, in place, every text that overlaps with one of `judged`: see `overlaps`."""
    known = grams(judged)
    for source in sources:
        kept = [text for text in source.texts if not overlaps(text, known)]
        if len(kept) < len(source.texts):
            n_left_out = len(source.texts) - len(kept)
            logger.info("%s: %d texts overlap with those that models are judged by: left out", source.name, n_left_out)
        source.texts = kept


def grams(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Get all runs of eight words in these texts, and all words of a shorter text; lower-cased, `nya` attached."""
    return {run for text in texts for run in _runs(text)}


def overlaps(text: str, known: set[tuple[str, ...]]) -> bool:
    """Whether a text has eight words in a row that are in `known`, which `grams` got, or is equal to a shorter text."""
    return any(run in known for run in _runs(text))


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = re.findall(r"\w+", re.sub(r"(?<=\w) +nya\b", "nya", text.lower()))
    return (tuple(words[i : i + N_WORDS]) for i in range(max(1, len(words) - N_WORDS + 1)))


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is kept for judging the model; equal texts are treated alike, whatever source they stand in."""
    return crc32(text.encode()) < share * 2**32


def repeat(n_texts: int, weight: float, seed: int) -> np.ndarray:
    """Get the numbers of the texts that an epoch sees: each `floor(weight)` times, and a random part once more.

    The part is the same in every epoch, so that under a weight below 1 the other texts are never seen.
    """
    whole, part = divmod(weight, 1)
    extra = np.random.default_rng(seed).permutation(n_texts)[: round(part * n_texts)]
    return np.concatenate([np.tile(np.arange(n_texts), int(whole)), np.sort(extra)]).astype(np.int64)


def pack(
    sequences: list[list[int]], max_length: int, cls_id: int, sep_id: int, seed: int, which: str = ""
) -> np.ndarray:
    """Lay texts one after the other, in random order, and cut them into rows.

    Args:
        sequences: word pieces of each text, without special tokens.
        max_length: word pieces of a row.
        cls_id, sep_id: ids of [CLS], with which each row begins, and of [SEP], with which each text ends.
        seed: of the order.
        which: what the texts are, for the message where they are too few.

    Returns:
        Ids of shape (n_rows, max_length); what is left at the end and does not fill a row is dropped.

    Raises:
        ValueError: if the texts do not fill a single row.
    """
    order = np.random.default_rng(seed).permutation(len(sequences))
    pieces = np.concatenate([np.array([*sequences[i], sep_id], dtype=np.int32) for i in order] or [np.empty(0, int)])
    n_rows = len(pieces) // (max_length - 1)
    if not n_rows:
        raise UserError(
            f"{len(sequences)} texts {which} with {len(pieces)} word pieces do not fill a row of {max_length}: lower "
            "--max_length."
        )
    rows = pieces[: n_rows * (max_length - 1)].reshape(n_rows, max_length - 1)
    return np.concatenate([np.full((n_rows, 1), cls_id, dtype=np.int32), rows], axis=1)


@dataclass
class Rows:
    """What pre-training reads.

    Attributes:
        sequences: word pieces of each text that an epoch sees, without special tokens.
        rows, held_out_rows: the same and the texts that are held out, packed, shape (n_rows, max_length).
    """

    sequences: list[list[int]]
    rows: np.ndarray
    held_out_rows: np.ndarray


def encode_sources(
    sources: list[Source], tokenizer: PreTrainedTokenizerBase, max_length: int, held_out: float, seed: int
) -> Rows:
    """Tokenise and pack texts, each as often as its source weighs, and those that are held out.

    Raises:
        ValueError: if the tokenizer lacks [CLS], [SEP] or [MASK], or its encoder cannot read `max_length` pieces; if
            either part does not fill a row.
    """
    lacking = [name for name in ("cls", "sep", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if lacking:
        raise UserError(
            f"the tokenizer has no {', '.join(lacking)} token, without which no rows can be made or masked."
        )
    if max_length > tokenizer.model_max_length:
        raise UserError(f"--max_length is {max_length}, but this encoder reads {tokenizer.model_max_length} pieces.")

    def tokenise(texts: list[str]) -> list[list[int]]:
        quick = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        sequences = tokenizer(texts, add_special_tokens=False, **quick)["input_ids"] if texts else []
        return [sequence for sequence in sequences if sequence]

    sequences, judged = [], []
    for source in sources:
        seen = tokenise([text for text in source.texts if not is_held_out(text, held_out)])
        sequences += [seen[i] for i in repeat(len(seen), source.weight, seed)]
        judged += tokenise([text for text in source.texts if is_held_out(text, held_out)])
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    rows = pack(sequences, max_length, *special, seed, "to train on")
    held_out_rows = pack(judged, max_length, *special, seed, "held out (more with a higher --held_out)")
    n_texts, n_rows, n_judged = (f"{len(part):,}" for part in (sequences, rows, judged))
    logger.info("An epoch: %s texts, %s rows of %d pieces; held out: %s texts", n_texts, n_rows, max_length, n_judged)
    return Rows(sequences, rows, held_out_rows)
