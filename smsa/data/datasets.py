"""Labelled files -> rows -> `datasets.DatasetDict` -> tokens -> batches. By default a bad row stops the run."""

import json
import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from sklearn.model_selection import train_test_split
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.hf_argparser import HfArg

from smsa.data.formats import BadRow, BadRowsError
from smsa.data.labels import DROP, LABELS, describe_unknown, match_labels, plain_label
from smsa.data.reader import IS_SPLIT, SPLIT, Source
from smsa.errors import UserError

logger = logging.getLogger(__name__)

REJECTS = "rejects.jsonl"
VALID_SHARE, VALID_SEED = 0.1, 42  # used if a training file comes without a validation file
_UNKNOWN = -1  # the label id of an unknown label
SMSA_URL = (
    "https://raw.githubusercontent.com/IndoNLP/indonlu/ce728f6926a36174b9923dfe49d6a6839b6e9bb7"
    "/dataset/smsa_doc-sentiment-prosa/"
)
SMSA_SHA256 = {
    "train": "50f38ceed9b31521bf1581e126620532cc9b790712938159a2cdcf6906977a9b",
    "valid": "6ab41ddc9d58a35086f05ebd2e209c74cb03d87d4f51d6abdfba674eafbefa74",
    "test": "4e8016daa8e4e1b193f2a28a79d3a7804dd4e3f926a3ab7e8a64264f5f416a6f",
}


@dataclass(kw_only=True)
class ReadingArguments:
    """How labelled files are read."""

    text_column: str | None = HfArg(default=None, help="Column of texts; found by name or content if not given.")
    label_column: str = HfArg(
        default="label", help="Column of labels; label also finds other usual names, such as sentimen."
    )
    label_map: str | None = HfArg(
        default=None,
        help="What the file's labels mean: -1=negative,0=neutral,1=positive,9=drop; drop excludes rows. positif, "
        "Positive and the like are known. Or what a model's labels mean: "
        "LABEL_0=positive,LABEL_1=neutral,LABEL_2=negative.",
    )
    sheet: str | None = HfArg(default=None, help="Sheet of a workbook; if not given, the only one with texts.")
    on_bad_row: Literal["strict", "skip"] = HfArg(
        default="strict",
        help="strict: stop. skip: exclude bad rows, such as empty texts and rows without a label, and list them in "
        "rejects.jsonl.",
    )

    def reading(self) -> dict[str, str | list[BadRow] | None]:
        """Return the options for `load_splits`; raise a UserError if `on_bad_row` is neither strict nor skip."""
        if self.on_bad_row not in ("strict", "skip"):
            raise UserError(f"on_bad_row {self.on_bad_row!r} is not one of strict, skip.")
        options = {name: getattr(self, name) for name in ("text_column", "label_column", "label_map", "sheet")}
        return options | {"rejects": [] if self.on_bad_row == "skip" else None}


@dataclass(kw_only=True)
class DataArguments(ReadingArguments):
    """Where labelled texts come from."""

    data_dir: str | None = HfArg(
        default=None,
        help="Folder with SmSA's train_preprocess.tsv, valid_preprocess.tsv and, optionally, "
        "test_preprocess.tsv. If not given: $SMSA_DATA_DIR if set, else ./data/smsa if there, else a download.",
    )
    train_file: str | None = HfArg(
        default=None,
        help="Your own training file instead of SmSA: a table in any format that scripts/predict.py reads. Without "
        "--valid_file, a tenth of it, stratified by label, is split off as valid.",
    )
    valid_file: str | None = HfArg(default=None, help="Your own validation file.")
    test_file: str | None = HfArg(default=None, help="Your own labelled test file.")
    dataset_name: str | None = HfArg(
        default=None, help="Data set of the Hub instead of files, or a local folder of one."
    )
    labels: str | None = HfArg(
        default=None,
        help="Label names, comma-separated, in the order of their ids, for example negatif,netral,positif. "
        "If not given: those of a model that is fine-tuned already, else positive,neutral,negative.",
    )

    def find_files(self) -> dict[str, Path | None]:
        """Return the file of each split: those that are named, else SmSA's (see `find_smsa`).

        If there is no validation file, `valid` is None, and `load_splits` splits it off train.

        Raises:
            UserError: if `valid_file` comes without `train_file`, or if two sources of data are named.
            FileNotFoundError: as `find_smsa`.
        """
        if self.valid_file and not self.train_file:
            raise UserError(
                "--valid_file needs --train_file. If only --train_file is given, a tenth of it becomes valid."
            )
        if self.dataset_name and (self.data_dir or self.train_file or self.valid_file):
            raise UserError("--dataset_name names all data: leave --data_dir, --train_file and --valid_file out.")
        if self.train_file and self.data_dir:
            raise UserError(
                "--data_dir (here or in the recipe) and --train_file are both given, and each names data: give only "
                "one. recipes/mini.yaml and recipes/indonlu.yaml name no data."
            )
        if self.train_file:
            files = {"train": Path(self.train_file), "valid": Path(self.valid_file) if self.valid_file else None}
        else:
            files = find_dataset(self.dataset_name) if self.dataset_name else find_smsa(self.data_dir)
        return files | ({"test": Path(self.test_file)} if self.test_file else {})


def find_smsa(data_dir: str | Path | None = None) -> dict[str, Path]:
    """Return SmSA's labelled files by split; `test` only if that file exists.

    Use `data_dir`, else $SMSA_DATA_DIR, else ./data/smsa, else download IndoNLU's files at a pinned commit into the
    user's cache and check their sha256. A folder that was named is never skipped: if it lacks files, that is an error.

    Raises:
        FileNotFoundError: if a file is missing or cannot be downloaded; says where it looked and what to do.
    """
    named = data_dir or os.environ.get("SMSA_DATA_DIR")
    folder = Path(named or "data/smsa")
    if named or folder.is_dir():
        files = {split: folder / f"{split}_preprocess.tsv" for split in SMSA_SHA256}
        found = {split: path for split, path in files.items() if path.is_file()}
        if missing := {"train", "valid"} - found.keys():
            source = "--data_dir" if data_dir else "SMSA_DATA_DIR" if named else "the default folder"
            raise FileNotFoundError(
                f"{files[min(missing)]} does not exist ({folder} comes from {source}). SmSA's files are named "
                "train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv. For files with other names, give "
                "--train_file and --valid_file; in eval.py, calibrate.py and export.py, give --data."
            )
        return found
    cache, files = pooch.os_cache("smsa"), {}
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar already shows the download
    try:
        for split, sha256 in SMSA_SHA256.items():
            url = f"{SMSA_URL}{split}_preprocess.tsv"
            files[split] = Path(pooch.retrieve(url, f"sha256:{sha256}", path=cache, progressbar=True))
        return files
    except (OSError, ValueError) as error:  # no network, or the sha256 differs
        raise FileNotFoundError(
            "SmSA was not found. Looked in: --data_dir (not given), SMSA_DATA_DIR (not set), ./data/smsa (no such "
            f"folder), the cache {cache}, and {url}, which failed: {error}\n"
            "What to do: put train_preprocess.tsv, valid_preprocess.tsv and test_preprocess.tsv (IndoNLU, "
            "dataset/smsa_doc-sentiment-prosa) into ./data/smsa, or name their folder with --data_dir. "
            "The bundled sample needs no network: --data_dir data/sample. "
            "eval.py, calibrate.py and export.py take one file: --data data/sample/valid_preprocess.tsv."
        ) from error


def find_dataset(name: str) -> dict[str, Path | None]:
    """Write the splits of a data set (its name on the Hub, or a folder) into the user's cache; return the files.

    Raises:
        UserError: if it has no split called train, or cannot be loaded.
    """
    is_saved = any(Path(name, file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        found = load_from_disk(name) if is_saved else load_dataset(name)
    except (ValueError, RuntimeError, DatasetGenerationError) as error:
        # several configurations, or a file that only our reader can read, such as CSV with semicolons
        why = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        raise UserError(f"--dataset_name {name}: {why}. Or name files: --train_file, --valid_file.") from error
    found = {"train": found} if isinstance(found, Dataset) else found
    known = {"valid": ("valid", "validation", "dev", "eval"), "train": ("train",), "test": ("test",)}
    folder = Path(pooch.os_cache("smsa"), "datasets", re.sub(r"\W+", "-", name))
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path | None] = {"train": None, "valid": None}
    for split, names in known.items():
        if there := next((name for name in names if name in found), None):
            files[split] = folder / f"{split}.parquet"
            unfinished = folder / f"{split}.{os.getpid()}"  # another rank may be reading the file
            pq.write_table(found[there].with_format("arrow")[:], unfinished)
            unfinished.replace(files[split])
    if files["train"] is None:
        raise UserError(f"--dataset_name {name} has no split train, only {', '.join(found)}: use --train_file instead.")
    return files


def read_rows(
    path: str | Path,
    labels: tuple[str, ...] = LABELS,
    text_column: str | None = None,
    label_column: str = "label",
    label_map: str | None = None,
    sheet: str | None = None,
) -> tuple[list[str], list[int], list[int], list[BadRow]]:
    """Read one labelled file in any of `INPUT_FORMATS`.

    Args:
        path: the file.
        labels: the label names, in the order of their ids.
        text_column, label_column, sheet: as in `Source`, which finds columns that are not named.
        label_map: what other labels mean; see `match_labels`.

    Returns:
        The texts exactly as written, the label id and the line of each, and the bad rows. Rows whose label is dropped
        are in none of these. "NA", "null", quotes in a .tsv and "#" are ordinary text.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: as `Source`; or if a column shows that the file holds rows of several splits.
    """
    path = Path(path)
    source = Source(path, text_column=text_column, label_column=label_column, sheet=sheet)
    meant = match_labels(labels, label_map)
    features = json.loads((source.schema.metadata or {}).get(b"huggingface", "{}")).get("info", {}).get("features", {})
    feature = features.get(source.label_column)
    names = feature.get("names") if isinstance(feature, dict) else None  # a ClassLabel has names; its -1 means no label
    meanings = {"-1": None, **{str(i): name for i, name in enumerate(names)}} if names else source.meanings
    texts, ids, lines, bad_rows, in_split = [], [], [], [], set()
    for chunk in source.chunks():
        in_split |= {*chunk.table[source.split_column].unique().to_pylist()} if source.split_column else set()
        bad_rows += [row for _, row in chunk.bad_rows]
        gold = chunk.table[source.label_column].to_pylist() if source.names else []
        for line, text, label in zip(chunk.lines.tolist(), chunk.texts.to_pylist(), gold, strict=True):
            plain = plain_label(label)
            if plain not in meant:  # the label map, and --labels that are numbers, win over the file's own names
                plain = plain_label(meanings.get(plain, plain))
            label_id = meant.get(label if isinstance(label, str) and label in meant else plain, _UNKNOWN)
            if text is None or not text.strip():
                reason = "the text is missing" if text is None else "the text is empty"
                bad_rows.append(BadRow(path, line, text, reason))
            elif "\0" in text:
                bad_rows.append(BadRow(path, line, text, "the text holds a NUL character"))
            elif label_id == _UNKNOWN:
                reason = "no label" if plain is None else f"the label is not one of {', '.join(labels)}"
                bad_rows.append(BadRow(path, line, label, reason, plain, text))
            elif label_id is not None:
                texts.append(text)
                ids.append(label_id)
                lines.append(line)
    said = {value: plain for value in in_split if (plain := plain_label(value))}
    words, is_flag = [*map(SPLIT.fullmatch, said.values())], IS_SPLIT.fullmatch(source.split_column or "")
    kinds = {bool(word[1]) for word in words} if all(words) else {*said.values()} if is_flag else ()
    if len(kinds) > 1:  # the model would be trained on its test rows
        listed = ", ".join(sorted(map(str, said)))
        raise UserError(
            f"{path}: the column {source.split_column!r} says {listed}: save the rows of each split as a file or table "
            "of its own. To use all rows together, remove the column."
        )
    return texts, ids, lines, sorted(bad_rows, key=attrgetter("line"))


def load_splits(
    files: dict[str, str | Path | None],
    labels: tuple[str, ...] = LABELS,
    rejects: list[BadRow] | None = None,
    **reading: str | None,
) -> DatasetDict:
    """Read and check labelled files into a dataset with `text`, `label` (a ClassLabel) and `line` per split.

    Args:
        files: a path for each split, for instance what `find_smsa()` returns; None for `valid` splits it off train.
        labels: label names in the order of their ids.
        rejects: a list that collects the bad rows, which are then excluded; if None, a bad row stops the run.
        reading: text_column, label_column, label_map, sheet, as in `read_rows`.

    Returns:
        Rows in the order of the files. Texts of valid and test that also stand in train are counted in the log.

    Raises:
        BadRowsError: if there are bad rows, in all files together, and `rejects` is None or a file has no other rows.
        UserError: if a split has no rows, or only one label.
        FileNotFoundError: if a file is missing.
    """
    splits = DatasetDict()
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(labels)), "line": Value("int64")})
    read = {split: read_rows(path, labels, **reading) for split, path in files.items() if path is not None}
    given = f"{reading['label_map']}," if reading.get("label_map") else ""  # proposals repeat it; the last option wins
    bad_rows = [row for *_, bad in read.values() for row in bad]
    are_left = all(texts for texts, *_ in read.values())
    if bad_rows and (rejects is None or not are_left):
        raise _refuse(bad_rows, labels, are_left, rejects is None, given)
    if bad_rows:
        rejects += bad_rows
        reasons = Counter(row.reason for row in bad_rows).most_common()
        listed = ", ".join(f"{n:,} {reason}" for reason, n in reasons)
        logger.warning("%s bad rows are excluded: %s", f"{len(bad_rows):,}", listed)
    if "valid" in files and files["valid"] is None and read["train"][0]:
        read["train"], read["valid"] = _split_off(*read["train"][:3], labels, files["train"], given)
    in_train = set(read["train"][0]) if "train" in read else set()
    for split, (texts, label_ids, lines, _) in read.items():
        counts, path = Counter(label_ids), files[split] or files["train"]
        if len(counts) < 2:
            found = f"{len(texts):,} row(s), all labelled {labels[label_ids[0]]!r}" if texts else "no rows"
            raise UserError(
                f"{path} has {found}: metrics on it would mean nothing. Give a file with at least two labels. The "
                "real labels of IndoNLU's test_preprocess_masked_label.tsv are in test_preprocess.tsv."
            )
        names = [repr(label) if label.isdecimal() else label for label in labels]
        listed = ", ".join(f"{counts[i]:,} {name}" for i, name in enumerate(names))
        n_seen = sum(text in in_train for text in texts) if split != "train" else 0
        note = f"; {n_seen:,} of its texts also stand in train" if n_seen else ""
        if n_unsure := len({*zip(texts, label_ids)}) - len({*texts}):  # for example, with one row per annotator
            note += f"; {n_unsure:,} of its texts have several labels"
        logger.info("%s: %s texts (%s) from %s%s", split, f"{len(texts):,}", listed, path, note)
        absent = " and no ".join(label for i, label in enumerate(labels) if not counts[i])
        if absent and split == "train":
            logger.warning("train has no %s text: the model cannot learn it. --labels can leave it out.", absent)
        elif absent and split != "data":
            logger.warning("%s has no %s text: during training, the macro metrics count it as 0.", path, absent)
        splits[split] = Dataset.from_dict({"text": texts, "label": label_ids, "line": lines}, features=features)
    return splits


def _split_off(
    texts: list[str], ids: list[int], lines: list[int], labels: tuple[str, ...], path: Path, given: str
) -> tuple[tuple, tuple]:
    """Return rows for train, and for valid a share of each label, drawn with a fixed seed; no text is in both."""
    label_of = dict(zip(reversed(texts), reversed(ids)))  # of a repeated text, the first label counts
    first = list(dict.fromkeys(texts))
    counts = Counter(label_of.values())
    rare = [labels[i] for i, n in counts.items() if n < 2]
    if rare:
        raise UserError(
            f"{path}: valid cannot be split off: there is only one text labelled {', '.join(rare)}. Give --valid_file, "
            f"or exclude it with {shlex.quote(f'--label_map={given}' + ','.join(f'{label}={DROP}' for label in rare))}."
        )
    n_valid, of_first = max(len(counts), round(VALID_SHARE * len(first))), [label_of[text] for text in first]
    drawn = {*train_test_split(first, test_size=n_valid, stratify=of_first, random_state=VALID_SEED)[1]}
    split = [[i for i, text in enumerate(texts) if (text in drawn) == is_valid] for is_valid in (False, True)]
    note = "valid: %s rows split off %s, stratified by label (seed %d)"
    logger.info(note, len(split[1]), path, VALID_SEED)
    return tuple(([texts[i] for i in s], [ids[i] for i in s], [lines[i] for i in s], []) for s in split)


def write_rejects(rejects: Sequence[BadRow] | None, folder: Path) -> None:
    """Write the excluded rows, if any, to rejects.jsonl in the folder."""
    rows = [{"file": str(r.path), "line": r.line, "value": r.value, "reason": r.reason} for r in rejects or ()]
    if rows:
        lines = "".join(f"{json.dumps(row, default=str)}\n" for row in rows)
        (folder / REJECTS).write_text(lines, encoding="utf-8")


def _refuse(
    bad_rows: list[BadRow], labels: tuple[str, ...], are_left: bool, may_skip: bool, given: str
) -> BadRowsError:
    """Return the error that says what to do about each kind of bad row, and shows one row of each unknown label."""
    unknown = [row for row in bad_rows if row.label is not None]
    examples = {row.label: row for row in reversed(unknown)}
    shown = [row for row in bad_rows if examples.get(row.label, row) is row]
    ways = []
    if unknown:
        ways.append(describe_unknown(unknown, labels, are_left, given))
    if may_skip and len(unknown) < len(bad_rows) and (are_left or unknown):
        ways.append("Correct the rows, or exclude them with --on_bad_row skip.")
    way_out = " ".join(ways) or "No row is left: are --text_column and --label_column right?"
    return BadRowsError(shown, way_out, len(bad_rows))


def encode_splits(splits: DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int = 512) -> DatasetDict:
    """Add the tokens of each row: special tokens included, truncated to `max_length`, [SEP] kept, not padded.

    Raises:
        UserError: if the tokenizer's encoder cannot read `max_length` tokens, or if these leave no room for text.
    """
    n_special = tokenizer.num_special_tokens_to_add()
    if max_length <= n_special:
        raise UserError(f"--max_length is {max_length}; {n_special} tokens are for special tokens, so give more.")
    if max_length > tokenizer.model_max_length:
        raise UserError(f"--max_length is {max_length}, but this encoder reads at most {tokenizer.model_max_length}.")
    encoded = splits.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=max_length), batched=True, desc="Tokenising"
    )
    if n_long := sum(int((count_tokens(split) == max_length).sum()) for split in encoded.values()):
        logger.info("%s texts have %d tokens or more; longer ones are cut (--max_length)", f"{n_long:,}", max_length)
    return encoded


def count_tokens(dataset: Sequence[dict]) -> np.ndarray:
    """Return the length of each row's `input_ids`, shape (n_rows,); the rows may also be a torch Dataset."""
    if not isinstance(dataset, Dataset):
        return np.array([len(row["input_ids"]) for row in dataset], dtype=np.int64)
    batches = dataset.select_columns("input_ids").iter(10_000)  # all of them at once would take gigabytes
    return np.array([len(token_ids) for batch in batches for token_ids in batch["input_ids"]], dtype=np.int64)


def sort_by_length(dataset: Dataset) -> Dataset:
    """Return the rows, longest first (ties keep their order): batches of similar lengths need half the padding."""
    return dataset.select(np.argsort(-count_tokens(dataset), stable=True))


class PaddingCollator(DataCollatorWithPadding):
    """Pad like DataCollatorWithPadding in a tenth of its time, so that the GPU does not wait at each step.

    `pad_to_multiple_of` never pads beyond the maximum length of the encoder. Features with other columns, and padding
    on the left, are left to the parent class.
    """

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        """Return `labels`, shape (batch,), and the tokenizer's outputs, padded to (batch, length); all int64."""
        tokenizer, multiple = self.tokenizer, self.pad_to_multiple_of or 1
        pads = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
        is_known = {"label", "attention_mask"} <= features[0].keys() <= {"label", *pads}
        if not is_known or tokenizer.padding_side == "left" or self.padding is not True:
            texts = {name for name, value in features[0].items() if isinstance(value, str)}
            return super().__call__([{name: row[name] for name in row if name not in texts} for row in features])
        longest = max(len(row["input_ids"]) for row in features)
        width = max(longest, min(-(-longest // multiple) * multiple, tokenizer.model_max_length))
        batch = {}
        for name in [name for name in pads if name in features[0]]:
            padded = [[*row[name], *[pads[name]] * (width - len(row[name]))] for row in features]
            batch[name] = torch.from_numpy(np.array(padded, dtype=np.int64))  # torch.tensor takes four times as long
        return batch | {"labels": torch.tensor([row["label"] for row in features])}
