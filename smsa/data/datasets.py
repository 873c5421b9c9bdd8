"""Labelled files -> rows -> `datasets.DatasetDict` -> tokens -> batches. Strict: a bad row stops all, by its line."""

import logging
import os
from collections import Counter
from operator import attrgetter
from pathlib import Path

import numpy as np
import pooch
import pyarrow.compute as pc
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from smsa.data.formats import BadRow, BadRowsError, show
from smsa.data.labels import LABELS, label_maps
from smsa.data.reader import Source
from smsa.errors import UserError

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_UNKNOWN_LABEL = "the label is not one of"
SPLITS = ("train", "valid", "test")
SMSA_URL = (
    "https://raw.githubusercontent.com/IndoNLP/indonlu/ce728f6926a36174b9923dfe49d6a6839b6e9bb7"
    "/dataset/smsa_doc-sentiment-prosa/"
)
SMSA_SHA256 = {
    "train": "50f38ceed9b31521bf1581e126620532cc9b790712938159a2cdcf6906977a9b",
    "valid": "6ab41ddc9d58a35086f05ebd2e209c74cb03d87d4f51d6abdfba674eafbefa74",
    "test": "4e8016daa8e4e1b193f2a28a79d3a7804dd4e3f926a3ab7e8a64264f5f416a6f",
}


def find_smsa(data_dir: str | Path | None = None) -> dict[str, Path]:
    """Return the labelled files of SmSA by split; `test` only where it is there.

    Looks in `data_dir`, else in $SMSA_DATA_DIR, else in ./data/smsa, else downloads from IndoNLU at a pinned commit,
    checked by sha256, into the user's cache. A folder that was named is used or refused, never passed over.

    Raises:
        FileNotFoundError: if a file is missing or cannot be downloaded; says where it looked and what to do.
    """
    named = data_dir or os.environ.get("SMSA_DATA_DIR")
    folder = Path(named or "data/smsa")
    if named or folder.is_dir():
        files = {split: folder / f"{split}_preprocess.tsv" for split in SPLITS}
        for split in ("train", "valid"):
            if not files[split].is_file():
                source = "--data_dir" if data_dir else "SMSA_DATA_DIR" if named else "the default folder"
                raise FileNotFoundError(
                    f"{files[split]} does not exist ({folder} comes from {source}). SmSA's files are named "
                    "train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv; for files of other names use "
                    "--train_file and --valid_file."
                )
        return {split: path for split, path in files.items() if path.is_file()}
    cache, files = pooch.os_cache("smsa"), {}
    pooch.get_logger().setLevel(logging.WARNING)  # it has a progress bar
    try:
        for split, sha256 in SMSA_SHA256.items():
            url = f"{SMSA_URL}{split}_preprocess.tsv"
            files[split] = Path(pooch.retrieve(url, f"sha256:{sha256}", path=cache, progressbar=True))
        return files
    except (OSError, ValueError) as error:  # no network; another sha256
        raise FileNotFoundError(
            "SmSA was not found. Looked in: --data_dir (not given), SMSA_DATA_DIR (not set), ./data/smsa (no such "
            f"folder), the cache {cache}, and {url}, which failed: {error}\n"
            "Way out: put train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv (IndoNLU, "
            "dataset/smsa_doc-sentiment-prosa) into ./data/smsa, or name their folder with --data_dir. "
            "The sample that comes with the project needs no network: --data_dir data/sample."
        ) from error


def find_files(
    data_dir: str | Path | None = None,
    train_file: str | Path | None = None,
    valid_file: str | Path | None = None,
    test_file: str | Path | None = None,
) -> dict[str, Path]:
    """Return the file of each split: those that are named, else SmSA's (see `find_smsa`).

    Raises:
        UserError: if only one of train and valid is named, or a folder beside them.
        FileNotFoundError: as `find_smsa`.
    """
    if bool(train_file) != bool(valid_file):
        raise UserError(
            "--train_file and --valid_file go together: the epoch that is kept is chosen on valid. docs/training.md "
            "shows how one file is split."
        )
    if train_file and data_dir:
        raise UserError(
            "--data_dir (here or in the recipe) names SmSA, --train_file your own data: give one of both. "
            "recipes/mini.yaml and indonlu.yaml name no data."
        )
    files = {"train": Path(train_file), "valid": Path(valid_file)} if train_file else find_smsa(data_dir)
    return files | ({"test": Path(test_file)} if test_file else {})


def read_rows(
    path: str | Path, labels: tuple[str, ...] = LABELS, text_column: str | None = None, label_column: str = "label"
) -> tuple[list[str], list[int], list[int], list[BadRow]]:
    """Read one labelled file of any of `INPUT_FORMATS` but .txt; a .tsv without header holds text and label.

    Args:
        path: the file; text in UTF-8, with or without BOM, lines ended by LF or CRLF.
        labels: the accepted label names, in the order of their ids. They must match to the letter.
        text_column: the column of texts; None to choose it as prediction does (see `Source`).
        label_column: the column of labels.

    Returns:
        Texts exactly as written, the label id and the line of each, and the rows that were refused instead of these.
        "NA", "null", quotes in a .tsv and "#" are ordinary text.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `Source`; or if the labels are a model's predictions.
    """
    path = Path(path)
    source = Source(path, text_column=text_column, label_column=label_column)
    is_predicted = sum(name.startswith("p_") for name in source.names) > 1  # `p_<label>`, as prediction writes them
    if label_column == "label" and "gold" in source.names and is_predicted:
        raise UserError(
            f"{path} holds predictions: its column 'label' is what a model predicted, 'gold' the true label. Give "
            "--label_column gold."
        )
    label_ids = label_maps(labels)["label2id"]
    texts, ids, lines, bad_rows = [], [], [], []
    for chunk in source.chunks(_ROWS_AT_ONCE):
        bad_rows += [row for _, row in chunk.bad_rows]
        gold = chunk.table[label_column].to_pylist() if source.names else []
        for line, text, label in zip(chunk.lines.tolist(), chunk.texts.to_pylist(), gold, strict=True):
            if type(label) is int:  # Parquet has types: pandas writes labels called 0 and 1 so
                label = str(label)
            if text is None or not text.strip():
                reason = "the text is missing" if text is None else "the text is empty"
                bad_rows.append(BadRow(path, line, text, reason))
            elif "\0" in text:
                bad_rows.append(BadRow(path, line, text, "the text holds a NUL character"))
            elif not isinstance(label, str) or label not in label_ids:
                bad_rows.append(BadRow(path, line, label, f"{_UNKNOWN_LABEL} {', '.join(label_ids)}"))
            else:
                texts.append(text)
                ids.append(label_ids[label])
                lines.append(line)
    return texts, ids, lines, sorted(bad_rows, key=attrgetter("line"))


def load_splits(
    files: dict[str, str | Path],
    labels: tuple[str, ...] = LABELS,
    text_column: str | None = None,
    label_column: str = "label",
) -> DatasetDict:
    """Read and check labelled files into a dataset with `text`, `label` (a ClassLabel) and `line` per split.

    Args:
        files: a path for each split, for instance what `find_smsa()` returns.
        labels: label names in the order of their ids.
        text_column, label_column: as in `read_rows`.

    Returns:
        Rows in the order of the files. Texts of valid and test that also stand in train are counted in the log.

    Raises:
        BadRowsError: for any bad row, over all files together.
        UserError: if a split has no rows or one single label throughout.
        FileNotFoundError: if a file is missing.
    """
    splits = DatasetDict()
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(labels)), "line": Value("int64")})
    read = {split: read_rows(path, labels, text_column, label_column) for split, path in files.items()}
    bad_rows = [row for *_, bad in read.values() for row in bad]
    if bad_rows:
        raise BadRowsError(bad_rows, _find_way_out(bad_rows))
    in_train = set(read["train"][0]) if "train" in read else set()
    for split, (texts, label_ids, lines, _) in read.items():
        counts = Counter(label_ids)
        if len(counts) < 2:
            found = f"{len(texts):,} row(s), all labelled {labels[label_ids[0]]!r}" if texts else "no rows"
            raise UserError(
                f"{files[split]} has {found}: a score on it would mean nothing. Give a file of two labels or more; of "
                "IndoNLU's test_preprocess_masked_label.tsv the real labels are in test_preprocess.tsv."
            )
        names = [repr(label) if label.isdecimal() else label for label in labels]
        listed = ", ".join(f"{counts[i]:,} {name}" for i, name in enumerate(names))
        n_seen = sum(text in in_train for text in texts) if split != "train" else 0
        note = f"; {n_seen:,} of its texts also stand in train" if n_seen else ""
        logger.info("%s: %s texts (%s) from %s%s", split, f"{len(texts):,}", listed, files[split], note)
        absent = " and no ".join(label for i, label in enumerate(labels) if not counts[i])
        if absent and split == "train":
            logger.warning("train has no %s text, so that no text will be labelled so.", absent)
        elif absent:
            logger.warning("%s has no %s text: the macro scores count it as 0.", files[split], absent)
        splits[split] = Dataset.from_dict({"text": texts, "label": label_ids, "line": lines}, features=features)
    return splits


def _find_way_out(bad_rows: list[BadRow]) -> str:
    """Return what may be done, by what is wrong."""
    unknown = [row for row in bad_rows if row.reason.startswith(_UNKNOWN_LABEL)]
    if not unknown:
        return "Mend or remove them."
    counts = Counter(show(row.value) for row in unknown).most_common(10)
    listed = ", ".join(f"{label} ({n:,})" for label, n in counts)
    hint = " If the first line names columns, give their names: --text_column and --label_column."
    is_first_line = any(row.line == 1 for row in unknown)
    return (
        f"Labels that were found and are none of these: {listed}. Mend or remove them, or name your labels: with "
        f"--labels, in eval.py with --label_map.{hint if is_first_line else ''}"
    )


def encode_splits(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> DatasetDict:
    """Add the tokens of each row: special tokens included, truncated to `max_length`, [SEP] kept, not padded.

    Raises:
        UserError: if the tokenizer's encoder cannot read `max_length` tokens, or these leave no room for text.
    """
    n_special = tokenizer.num_special_tokens_to_add()
    if max_length <= n_special:
        raise UserError(f"--max_length is {max_length}; {n_special} tokens are special, so give more.")
    if max_length > tokenizer.model_max_length:
        raise UserError(f"--max_length is {max_length}, but this encoder reads at most {tokenizer.model_max_length}.")
    return splits.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=max_length), batched=True, desc="Tokenising"
    )


def count_tokens(dataset: Dataset) -> np.ndarray:
    """Return the length of each row's `input_ids`, shape (n_rows,)."""
    if not len(dataset):
        return np.zeros(0, dtype=np.int64)  # which has no type that says that these are lists
    column = dataset.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
    return pc.list_value_length(column).to_numpy()


def sort_by_length(dataset: Dataset) -> Dataset:
    """Return the rows, longest first, ties in their order: batches of one length need half the padding."""
    return dataset.select(np.argsort(-count_tokens(dataset), stable=True))


class PaddingCollator(DataCollatorWithPadding):
    """DataCollatorWithPadding in a tenth of its time, which a GPU would wait for at each step.

    Where `pad_to_multiple_of` would lead beyond what the encoder reads, it stops there. What it does not know, like
    other columns or pads on the left, it leaves to its parent.
    """

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Return `labels`, shape (batch,), and what the tokenizer gave of each text, (batch, length); all int64."""
        tokenizer, multiple = self.tokenizer, self.pad_to_multiple_of or 1
        pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
        is_known = {"label", "attention_mask"} <= features[0].keys() <= {"label", *pads}
        if not is_known or tokenizer.padding_side == "left" or self.padding is not True:
            return super().__call__(features)
        lengths = np.array([len(row["input_ids"]) for row in features])
        longest = lengths.max()
        width = max(longest, min(-(-longest // multiple) * multiple, tokenizer.model_max_length))
        is_token = np.arange(width) < lengths[:, None]  # (batch, length)
        batch = {}
        for name in [name for name in pads if name in features[0]]:
            values = np.full(is_token.shape, pads[name], dtype=np.int64)
            values[is_token] = np.concatenate([row[name] for row in features])
            batch[name] = torch.from_numpy(values)
        return batch | {"labels": torch.tensor([row["label"] for row in features])}
