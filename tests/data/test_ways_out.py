"""What a refusal names to be pasted works when it is pasted: options, in the words of the message, or another file."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import SAMPLE_DIR
from tables import make_classifier, write_workbook

from smsa.cli import parse
from smsa.data.datasets import DataArguments, find_files, load_splits
from smsa.data.labels import LABELS, parse_labels
from smsa.errors import UserError
from smsa.inference.job import PredictionArguments, predict_files

ROWS = "".join(f"teks nomor {i},{('positif', 'negatif', 'netral')[i % 3]}\n" for i in range(40))
LABELLED = f"teks,label\n{ROWS}"
TWO = "teks,pesan,label\na b,c d,positif\nb c,d e,negatif\n"
SHEETS = {"Jan": [["isi"], ["enak"]], "Feb": [["isi"], ["kotor"]]}
TALKS = {"A": [["isi", "teks"], ["a b", "c d"]], "B": [["isi", "teks"], ["a b", "c d"]]}
JSON_LABEL = '{"text": "a"}\n' * 1001 + '{"text": "b", "label": "x"}\n'


def rename(folder: Path, argv: list[str], suffix: str) -> list[str]:
    """Return the options with the file under another suffix."""
    old = next(value for value in argv if value.startswith(str(folder)) and Path(value).is_file())
    new = str(Path(old).with_suffix(suffix))
    Path(old).rename(new)
    return [new if value == old else value for value in argv]


def predict(argv: list[str], classifier) -> None:
    """Do as scripts/predict.py."""
    (args,) = parse(PredictionArguments, argv=argv)
    options = {name: value for name, value in vars(args).items() if not name.startswith("model")}
    assert all(summary["predicted"] for summary in predict_files(classifier, **options))


def train(argv: list[str], classifier) -> None:
    """Read as scripts/finetune.py."""
    (args,) = parse(DataArguments, argv=argv)
    names = ("data_dir", "train_file", "valid_file", "test_file", "dataset_name")
    files = find_files(**{name: getattr(args, name) for name in names})
    labels = parse_labels(args.labels) if args.labels else LABELS
    assert load_splits(files, labels, **args.reading())["train"].num_rows


# What is done, the name and the content of a file, more options, and how often the message names an option. The file
# is the value of --input or --train_file.
REFUSALS = {
    "which column": (predict, "a.csv", TWO, "", 1),
    "two names of texts, and labels": (train, "a.csv", TWO, "", 1),
    "two questions": (predict, "a.csv", "Apa kelebihannya?,Apa kekurangannya?,n\nenak dan murah,jauh dan sepi,1\n", "", 1),
    "a header or a row": (predict, "a.csv", "bagus sekali\njelek\n", "", 2),
    "no such column": (predict, "a.csv", "teks,komentar_lama\na,b c\n", "--text_column Komentar", 0),
    "alike but for case": (predict, "a.csv", "Isi,isi\na b,b c\n", "--text_column ISI", 1),
    "no column of labels": (train, "a.csv", LABELLED.replace("label", "nilai_akhir"), "", 1),
    "two columns of labels": (train, "a.csv", "text,sentimen,kelas\na,positif,negatif\nb,negatif,positif\n", "", 1),
    "no text": (predict, "a.json", '{"text": {"0": 1}, "x": {"0": "a"}}', "--text_column x", 0),
    "a sheet": (predict, "a.xlsx", SHEETS, "", 1),
    "a sheet and a column": (predict, "a.xlsx", TALKS, "", 1),
    "no sheets": (predict, "a.csv", LABELLED, "--sheet A", 1),
    "numbers": (train, "a.csv", "teks,label\n" + "a,1\nb,0\nc,-1\n" * 20, "", 2),
    "words without a meaning": (train, "a.csv", "teks,label\n" + "a,sangat puas\nb,marah?\n" * 20, "", 1),
    "words beside known ones": (train, "a.csv", LABELLED + "x,marah sekali\n" * 2, "", 1),
    "a label with a comma": (train, "a.csv", 'teks,label,kelas\n' + 'a,"x,y",positif\nb,z,negatif\n' * 9, "", 1),
    "ids for labels": (train, "a.csv", "teks,label,kelas\n" + "".join(f"{i},{i}x,{'positif' if i % 2 else 'negatif'}\n" for i in range(50)), "", 1),
    "a map that says nothing": (train, "a.csv", "teks,label\n" + "a,1\nb,0\n" * 20, "--label_map 1", 1),
    "one text of a label": (train, "a.csv", LABELLED + "x,marah\n", "--labels positive,neutral,negative,marah", 1),
    "an empty text": (train, "a.csv", LABELLED + ",positif\n", "", 1),
    "no label": (train, "a.csv", LABELLED + "x,\n", "", 1),
    "a bad row": (predict, "a.csv", LABELLED + "x,y,z\n", "", 1),
    "predictions": (train, "a.csv", "text,label,gold,p_a,p_b\n" + "a,x,positif,1,0\nb,x,negatif,0,1\n" * 9, "", 1),
    "a key that is added": (predict, "a.jsonl", JSON_LABEL, "", 1),
    "an unknown suffix": (predict, "a.dat", LABELLED, "", 1),
    "two sources": (train, "a.csv", LABELLED, f"--data_dir {SAMPLE_DIR}", 0),
}  # fmt: skip
# Where the message says "no column named", the column is one of those that it lists.
CHOICES = {"no such column": "--text_column teks", "no column of labels": "--label_column nilai_akhir"}
CHOICES |= {name: "--label_column kelas" for name in ("a label with a comma", "ids for labels")}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_option_that_a_refusal_names_works_when_it_is_pasted(name, tmp_path, tiny_model, tokenizer):
    do, file, content, more, n_named = REFUSALS[name]
    path, classifier = tmp_path / file, make_classifier(tiny_model, tokenizer)
    if isinstance(content, dict):
        write_workbook(path, content)
    else:
        path.write_text(content)
    output = ["--output", str(tmp_path / "out.jsonl")]
    argv = ["--input" if do is predict else "--train_file", str(path), *(output if do is predict else []), *shlex.split(more)]
    with pytest.raises((UserError, FileNotFoundError)) as raised:
        do(argv, classifier)
    message = str(raised.value).split("\n")[0]
    print(message)
    raise NotImplementedError
