"""Plain text -> rows of word pieces to pre-train on: sources with weights, texts that are held out, packing."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from smsa.data import find_smsa, read_rows
from smsa.files import hash_file
from smsa.rows import BadRow, BadRowsError, is_unicode

logger = logging.getLogger(__name__)

SMSA = "smsa"  # the source that stands for SmSA's training texts


@dataclass
class Source:
    """Texts of one origin.

    Attributes:
        name: as it was given, without the weight.
        weight: how often an epoch sees a text of it.
        path: the file.
        texts: one for each line that is not empty, as written.
    """

    name: str
    weight: float
    path: Path
    texts: list[str]

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hash_file(self.path)[0]


def read_sources(
    specs: Iterable[str], corpus_dir: str | Path | None = None, data_dir: str | Path | None = None
) -> list[Source]:
    """Read `FILE` or `FILE=WEIGHT`, each a text a line in UTF-8, or `smsa` for the training texts of SmSA.

    Args:
        specs: the sources.
        corpus_dir: folder in which relative names lie; None stands for $SMSA_CORPUS_DIR, else the working directory.
        data_dir: as in `find_smsa`.

    Raises:
        ValueError: for a weight that is no positive number, a file named twice or without any text.
        FileNotFoundError: if a file is missing.
        BadRowsError: for lines that are not valid UTF-8 or hold a NUL character.
    """
    sources, bad_rows = [], []
    for spec in specs:
        name, _, weight = spec.partition("=")
        try:
            value = float(weight or 1)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise ValueError(f"--sources {spec}: the weight {weight!r} is not a positive number.")
        if name in {source.name for source in sources}:
            raise ValueError(f"--sources names {name} twice; give it a weight instead: {name}=2.")
        if name == SMSA:
            path = find_smsa(data_dir)["train"]
            texts, _, _, bad = read_rows(path)
        else:
            path = Path(corpus_dir or os.environ.get("SMSA_CORPUS_DIR", "."), name)
            texts, bad = _read_lines(path)
        bad_rows += bad
        if not texts and not bad:
            raise ValueError(f"{path} holds no text.")
        sources.append(Source(name, value, path, texts))
    if bad_rows:
        raise BadRowsError(bad_rows, "Mend or remove them.")
    return sources


def _read_lines(path: Path) -> tuple[list[str], list[BadRow]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --corpus_dir (or $SMSA_CORPUS_DIR) names the folder.")
    texts, bad_rows = [], []
    for line, content in enumerate(path.read_bytes().split(b"\n"), start=1):
        text = content.decode("utf-8-sig" if line == 1 else "utf-8", errors="surrogateescape").strip()
        if not is_unicode(text) or "\0" in text:
            reason = "the text holds a NUL character" if "\0" in text else "the text is not valid UTF-8"
            bad_rows.append(BadRow(path, line, text, reason))
        elif text:
            texts.append(text)
    return texts, bad_rows


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is kept for judging the model; equal texts share their lot, wherever they stand."""
    return crc32(text.encode()) < share * 2**32


def repeat(n_texts: int, weight: float, seed: int) -> np.ndarray:
    """Get the numbers of the texts that an epoch sees: each `floor(weight)` times, and a random part once more."""
    whole, part = divmod(weight, 1)
    extra = np.random.default_rng(seed).permutation(n_texts)[: round(part * n_texts)]
    return np.concatenate([np.tile(np.arange(n_texts), int(whole)), np.sort(extra)]).astype(np.int64)


def pack(sequences: list[list[int]], max_length: int, cls_id: int, sep_id: int, seed: int) -> np.ndarray:
    """Lay texts one after the other, in random order, and cut them into rows.

    Args:
        sequences: word pieces of each text, without special tokens.
        max_length: word pieces of a row.
        cls_id, sep_id: ids of [CLS], with which each row begins, and of [SEP], with which each text ends.
        seed: of the order.

    Returns:
        Ids of shape (n_rows, max_length); what is left at the end and does not fill a row is dropped.

    Raises:
        ValueError: if the texts do not fill a single row.
    """
    order = np.random.default_rng(seed).permutation(len(sequences))
    pieces = np.concatenate([np.array([*sequences[i], sep_id], dtype=np.int32) for i in order] or [np.empty(0, int)])
    n_rows = len(pieces) // (max_length - 1)
    if not n_rows:
        raise ValueError(f"{len(sequences)} texts of {len(pieces)} word pieces do not fill a row of {max_length}.")
    rows = pieces[: n_rows * (max_length - 1)].reshape(n_rows, max_length - 1)
    return np.concatenate([np.full((n_rows, 1), cls_id, dtype=np.int32), rows], axis=1)
