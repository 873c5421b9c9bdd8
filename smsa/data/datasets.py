"""Labelled files -> rows -> `datasets.DatasetDict` -> word pieces. Strict: a bad row stops all, by file and line."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pooch
import pyarrow
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import PreTrainedTokenizerBase

from smsa.data.labels import LABELS, label_maps
from smsa.data.rows import (
    BadRow,
    BadRowsError,
    Malformed,
    is_unicode,
    read_csv,
    read_jsonl,
    read_tsv,
    refuse_other_separator,
    refuse_utf16,
    show,
)
from smsa.errors import UserError

logger = logging.getLogger(__name__)

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
    """Find the labelled files of SmSA by split; `test` only where it is there.

    Looks in `data_dir`, else in $SMSA_DATA_DIR, else in ./data/smsa, else downloads from IndoNLU at a pinned commit,
    checked by sha256, into the user's cache. A folder that was named is used or refused, never passed over.

    Raises:
        FileNotFoundError: if a file is missing or cannot be downloaded; says where it looked and what to do.
    """
    named = data_dir or os.environ.get("SMSA_DATA_DIR")
    folder = Path(named) if named else Path("data/smsa")
    files = {split: folder / f"{split}_preprocess.tsv" for split in SPLITS}
    if named or folder.is_dir():
        for split in ("train", "valid"):
            if not files[split].is_file():
                source = "--data_dir" if data_dir else "SMSA_DATA_DIR" if named else "the default folder"
                raise FileNotFoundError(
                    f"{files[split]} does not exist ({folder} comes from {source}). SmSA's files are named "
                    "train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv; for files of other names use "
                    "--train_file and --valid_file."
                )
        return {split: path for split, path in files.items() if path.is_file()}
    return {split: _download(split) for split in SPLITS}


def find_files(
    data_dir: str | Path | None = None,
    train_file: str | Path | None = None,
    valid_file: str | Path | None = None,
    test_file: str | Path | None = None,
) -> dict[str, Path]:
    """Find the file of each split: those that are named, else SmSA's (see `find_smsa`).

    Raises:
        ValueError: if only one of train and valid is named, or a folder beside them.
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


def _download(split: str) -> Path:
    url = f"{SMSA_URL}{split}_preprocess.tsv"
    cache = pooch.os_cache("smsa")
    pooch.get_logger().setLevel(logging.WARNING)  # it has a progress bar
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{SMSA_SHA256[split]}", path=cache, progressbar=True))
    except (OSError, ValueError) as error:  # no network; another sha256
        raise FileNotFoundError(
            "SmSA was not found. Looked in: --data_dir (not given), SMSA_DATA_DIR (not set), ./data/smsa (no such "
            f"folder), the cache {cache}, and {url}, which failed: {error}\n"
            "Way out: put train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv (IndoNLU, "
            "dataset/smsa_doc-sentiment-prosa) into ./data/smsa, or name their folder with --data_dir. "
            "The sample that comes with the project needs no network: --data_dir data/sample."
        ) from error


def read_rows(
    path: str | Path, labels: tuple[str, ...] = LABELS, text_column: str = "text", label_column: str = "label"
) -> tuple[list[str], list[int], list[int], list[BadRow]]:
    """Read one labelled file, by its suffix: .tsv (headerless, text then label), .csv, .jsonl or .parquet.

    Args:
        path: the file; text in UTF-8, with or without BOM, lines ended by LF or CRLF.
        labels: the accepted label names, in the order of their ids. They must match to the letter.
        text_column, label_column: where to read in files that name their columns.

    Returns:
        Texts exactly as written, the label id and the line of each, and the rows that were refused instead of these.
        "NA", "null", quotes in a .tsv and "#" are ordinary text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another suffix, a column that is missing or named for both, or a file that is not what its
            suffix says.
    """
    path = Path(path)
    readers = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise UserError(
            f"{path}: the suffix {path.suffix!r} is not one of {', '.join(readers)}. Unpack what is compressed; tables "
            "of other kinds become CSV by pandas: pd.read_excel(OLD).to_csv(NEW, index=False)."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.suffix != ".tsv" and text_column == label_column:
        raise UserError(f"{path}: texts and labels cannot both be in {text_column!r}.")
    label_ids = label_maps(labels)["label2id"]
    good_texts, good_ids, good_lines, bad_rows = [], [], [], []
    for line, text, label in readers[path.suffix](path, text_column, label_column):
        if isinstance(label, int) and str(label) in label_ids:  # as pandas writes labels called 0 and 1
            label = str(label)
        reason, value = _find_fault(text, label, label_ids)
        if reason:
            bad_rows.append(BadRow(path, line, value, reason))
        else:
            good_texts.append(text)
            good_ids.append(label_ids[label])
            good_lines.append(line)
    return good_texts, good_ids, good_lines, bad_rows


_UNKNOWN_LABEL = "the label is not one of"


def _find_fault(text: object, label: object, label_ids: dict[str, int]) -> tuple[str | None, object]:
    if isinstance(text, Malformed):
        return text.reason, text.value
    if not isinstance(text, str):
        return "the text is missing" if text is None else "the text is not a string", text
    if "\0" in text:
        return "the text holds a NUL character", text
    if not is_unicode(text):
        return "the text is not valid UTF-8", text
    if not text.strip():
        return "the text is empty", text
    if not isinstance(label, str) or label not in label_ids:
        return f"{_UNKNOWN_LABEL} {', '.join(label_ids)}", label
    return None, None


# Each reader yields (line from 1, text, label); a Malformed in place of the text says what is wrong with the row.
_Rows = Iterator[tuple[int, object, object]]


def _read_tsv(path: Path, text_column: str, label_column: str) -> _Rows:
    with path.open("rb") as stream:
        refuse_utf16(stream, path)
        for line, row in read_tsv(stream, path, width=2):
            yield (line, row, None) if isinstance(row, Malformed) else (line, *row)


def _read_csv(path: Path, text_column: str, label_column: str) -> _Rows:
    with path.open("rb") as stream:
        refuse_utf16(stream, path)
        rows = read_csv(stream, path)
        _, header = next(rows, (1, []))
        refuse_other_separator(path, header)
        _refuse_answers(path, header, label_column)
        text_at, label_at = (_find_column(path, name, header) for name in (text_column, label_column))
        for line, row in rows:
            yield (line, row, None) if isinstance(row, Malformed) else (line, row[text_at], row[label_at])


def _read_jsonl(path: Path, text_column: str, label_column: str) -> _Rows:
    with path.open("rb") as stream:
        refuse_utf16(stream, path)
        for number, _, row in read_jsonl(stream):
            if isinstance(row, Malformed):
                yield number, row, None
            elif text_column in row and label_column in row:
                _refuse_answers(path, row, label_column)
                yield number, row[text_column], row[label_column]
            else:
                yield number, Malformed(row, f"not an object with {text_column!r} and {label_column!r}"), None


def _read_parquet(path: Path, text_column: str, label_column: str) -> _Rows:
    try:
        table = pyarrow.parquet.ParquetFile(path)
        for name in (text_column, label_column):
            _find_column(path, name, table.schema_arrow.names)
        _refuse_answers(path, table.schema_arrow.names, label_column)
        number = 0
        for batch in table.iter_batches(columns=[text_column, label_column]):
            for row in batch.to_pylist():
                number += 1
                yield number, row[text_column], row[label_column]
    except (pyarrow.ArrowInvalid, OSError) as error:  # the second for a page that cannot be unpacked
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error


def _refuse_answers(path: Path, names: Iterable[str], label_column: str) -> None:
    """Refuse to take a model's answers for gold, where smsa itself has written both, and `p_<label>` of each label."""
    is_scored = sum(name.startswith("p_") for name in names) > 1
    if label_column == "label" and "gold" in names and is_scored:
        raise UserError(
            f"{path} has been scored: its column 'label' is a model's answer, 'gold' the true label. Give "
            "--label_column gold."
        )


def _find_column(path: Path, name: str, header: list[str]) -> int:
    if header.count(name) != 1:
        found = "no column" if name not in header else f"{header.count(name)} columns"
        raise UserError(
            f"{path}:1: {found} named {name!r}. The columns are: {', '.join(header) or '(none)'}. "
            "Choose with --text_column and --label_column."
        )
    return header.index(name)


def load_splits(
    files: dict[str, str | Path],
    labels: tuple[str, ...] = LABELS,
    text_column: str = "text",
    label_column: str = "label",
) -> DatasetDict:
    """Read and check labelled files into a dataset with `text`, `label` (a ClassLabel) and `line` per split.

    Args:
        files: a path for each split, for instance what `find_smsa()` returns.
        labels: label names in the order of their ids.
        text_column, label_column: where to read in .csv, .jsonl and .parquet files.

    Returns:
        Rows in the order of the files. Texts of valid and test that also stand in train are counted in the log.

    Raises:
        BadRowsError: for any bad row, over all files together.
        ValueError: if a split has no rows or one single label throughout.
        FileNotFoundError: if a file is missing.
    """
    splits, bad_rows = DatasetDict(), []
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(labels)), "line": Value("int64")})
    for split, path in files.items():
        texts, label_ids, lines, bad = read_rows(path, labels, text_column, label_column)
        bad_rows += bad
        splits[split] = Dataset.from_dict({"text": texts, "label": label_ids, "line": lines}, features=features)
    if bad_rows:
        raise BadRowsError(bad_rows, _find_way_out(bad_rows))
    in_train = set(splits["train"]["text"]) if "train" in splits else set()
    for split, rows in splits.items():
        _check_labels_vary(Path(files[split]), rows["label"], labels)
        counts = ", ".join(
            f"{rows['label'].count(i):,} {repr(label) if label.isdecimal() else label}"
            for i, label in enumerate(labels)
        )
        n_seen = sum(text in in_train for text in rows["text"]) if split != "train" else 0
        note = f"; {n_seen:,} of its texts also stand in train" if n_seen else ""
        logger.info("%s: %s texts (%s) from %s%s", split, f"{len(rows):,}", counts, files[split], note)
        absent = " and no ".join(sorted({*labels} - {labels[i] for i in rows["label"]}))
        if absent and split == "train":
            logger.warning("train has no %s text, so that no text will be labelled so.", absent)
        elif absent:
            logger.warning("%s has no %s text: the macro scores count it as 0.", files[split], absent)
    return splits


def _find_way_out(bad_rows: list[BadRow]) -> str:
    """Say what may be done, by what is wrong."""
    unknown = [row for row in bad_rows if row.reason.startswith(_UNKNOWN_LABEL)]
    if not unknown:
        return "Mend or remove them."
    counts = Counter(show(row.value) for row in unknown).most_common(10)
    listed = ", ".join(f"{label} ({n:,})" for label, n in counts)
    hint = " If the first line names columns: a .tsv has none here, so save the file as .csv."
    has_header = any(row.line == 1 and row.path.suffix == ".tsv" for row in unknown)
    return (
        f"Labels that were found and are none of these: {listed}. Mend or remove them, or name your labels: with "
        f"--labels, in score.py with --label_map.{hint if has_header else ''}"
    )


_MASKED = (
    "IndoNLU's test_preprocess_masked_label.tsv is such a file: its real labels are in test_preprocess.tsv. Use that "
    "file, or leave this one out."
)


def _check_labels_vary(path: Path, label_ids: Sequence[int], labels: tuple[str, ...]) -> None:
    if not label_ids:
        raise UserError(f"{path} has no rows.")
    if len(label_ids) == 1:
        raise UserError(f"{path} has one row: a score on it would mean nothing.")
    if len(set(label_ids)) == 1:
        raise UserError(
            f"{path}: all {len(label_ids):,} rows are labelled {labels[label_ids[0]]!r}, so a score on it would mean "
            f"nothing. {_MASKED if labels[label_ids[0]] == 'neutral' else 'Give a file of two labels or more.'}"
        )


def encode_splits(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> DatasetDict:
    """Add word pieces to each row: special tokens included, cut to `max_length` with the last [SEP] kept, not padded.

    Raises:
        ValueError: if the tokenizer's encoder cannot read `max_length` word pieces, or these leave no room for text.
    """
    n_special = tokenizer.num_special_tokens_to_add()
    if max_length <= n_special:
        raise UserError(f"--max_length is {max_length}; {n_special} word pieces are special tokens, so give more.")
    if max_length > tokenizer.model_max_length:
        raise UserError(
            f"--max_length is {max_length}, but this encoder reads at most {tokenizer.model_max_length} word pieces."
        )
    return splits.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=max_length), batched=True, desc="Tokenising"
    )
