"""An option that a refusal names works when it is pasted, in the words of the message."""

import logging
import shlex
from pathlib import Path

import pandas as pd
import pytest
from conftest import SAMPLE_DIR
from tables import write_workbook

from scripts import baseline
from smsa.cli import parse
from smsa.data.datasets import DataArguments, load_splits, read_rows
from smsa.data.labels import LABELS, parse_labels
from smsa.errors import UserError
from smsa.evaluation.baselines import BaselineArguments
from smsa.inference import writers
from smsa.inference.job import PredictionArguments, predict_files


def twenty(rows: str) -> str:
    """Return rows twenty times, with a number in place of each #."""
    return "".join(rows.replace("#", str(i)) for i in range(20))


LABELLED = "teks,label\n" + "".join(f"teks {i},{('positif', 'negatif', 'netral')[i % 3]}\n" for i in range(40))
TWO = "teks,pesan,label\n" + twenty("a#b c,c d,positif\nb#c d,d e,negatif\n")
ANNOTATED = "teks,kelas,target\n" + twenty("a#,positif,positif\nb#,positif,negatif\n")
HEADLESS = "bagus sekali\njelek\n"
TALKS = {"Jan 1": [["isi", "teks"], ["a b", "c d"]], "B": [["isi", "teks"], ["a b", "c d"]]}
QUESTIONS = "Apa baiknya?,Apa buruknya?,n\nenak sih,jauh ya,1\n"
POSTS = "content,komentar\n" + "".join(f"Presiden hari ini membuka jalan tol ke {i},bagus\n" for i in range(9))
WITHIN = "".join(f'{{"text": "a{i}", "v": {{"lab": {i % 2}}}}}\n' for i in range(40))
REMARKED = LABELLED.replace("teks,label", "kal,label,komentar").replace("tif\n", "tif,\n").replace("tral\n", "tral,\n")
LISTS = '[{"product": "a", "reviews": [{"x": "b"}, {"x": "c"}]}, {"product": "b", "reviews": []}]'
NUMBERS = "teks,label\n" + twenty("a#,1\nb#,0\nc#,-1\n")
BINARY = "teks,label\n" + twenty("a#,1\nb#,0\n")
WORDS = "teks,label,kelas\n" + twenty("a#,sangat puas,positif\nb#,marah,negatif\n")
MEANT = "--label_map=marah=...,sangat puas=...|'--label_map=marah=negative,sangat puas=positive'"
FIVE, VALID = "--labels positive,neutral,negative,marah,lega", f"--valid_file |{SAMPLE_DIR}/valid_preprocess.tsv"
PREDICTED = "text,label,gold\n" + twenty("a#,x,positif\nb#,x,negatif\n")
IDS = "teks,label,kelas\n" + "".join(f"{i},{i}x,{('positif', 'negatif')[i % 2]}\n" for i in range(50))


def predict(argv: list[str], classifier) -> None:
    """Do as scripts/predict.py."""
    (args,) = parse(PredictionArguments, argv=argv)
    assert all(summary["predicted"] for summary in predict_files(classifier, **vars(args)))


def train(argv: list[str], classifier=None) -> None:
    """Read as scripts/finetune.py."""
    (args,) = parse(DataArguments, argv=argv)
    labels = parse_labels(args.labels) if args.labels else LABELS
    assert load_splits(args.find_files(), labels, **args.reading())["train"].num_rows


# What is done, a file and its content, more options; then the ways out that the message must name: options to paste,
# with a value behind the bar where the message leaves it to the user; `-` where those options are to be left out.
REFUSALS = {
    "which column, with labels": (train, "a.csv", TWO, "", ["--text_column teks"]),
    "a post and its comments": (predict, "a.csv", POSTS, "", ["--text_column content", "--text_column |komentar"]),
    "texts within": (predict, "a.jsonl", '{"type": "F", "v": {"at": 1, "s_p": "a b"}}\n' * 2, "",
                     ["--text_column v.s_p"]),
    "remarks that nobody made": (train, "a.csv", REMARKED, "", ["--text_column kal"]),
    "texts within lists": (predict, "a.json", LISTS, "", ["--text_column product"]),
    "labels within": (train, "a.jsonl", WITHIN, "--label_map=0=negative,1=positive", ["--label_column |v.lab"]),
    "no name of texts": (predict, "a.csv", "id,judul\n1,x\n", "", ["--text_column judul"]),
    "fastText's labels in a column": (predict, "a.csv", '"a, b",__label__pos\nc,__label__neg\n', "",
                                      ["--text_column column_1"]),
    "two questions": (predict, "a.csv", QUESTIONS, "", ["--text_column 'Apa baiknya?'"]),
    "a header or a row": (predict, "a.csv", HEADLESS, "", ["--text_column 'bagus sekali'", "--text_column column_1"]),
    "no such column": (predict, "a.csv", LABELLED, "--text_column Komentar", ["--text_column |teks"]),
    "alike but for case": (predict, "a.csv", "Isi,isi\na b,b c\n", "--text_column ISI", ["--text_column isi"]),
    "no column called so": (train, "a.csv", ANNOTATED.replace("kelas,target", "A,B"), "", ["--label_column B"]),
    "two columns of labels": (train, "a.csv", ANNOTATED, "", ["--label_column target"]),
    "no text": (predict, "a.parquet", {"x": ["a"], "text": [1]}, "", ["--text_column |x"]),
    "a sheet and a column": (predict, "a.xlsx", TALKS, "", ["--sheet 'Jan 1'", "--text_column |isi"]),
    "no such sheet": (predict, "a.xlsx", TALKS, "--sheet Z --text_column isi", ["--sheet |B"]),
    "numbers": (train, "a.csv", NUMBERS, "", ["--label_map=-1=negative,0=neutral,1=positive", "--labels=-1,0,1"]),
    "words": (train, "a.csv", WORDS, "", [MEANT, "'--labels=marah,sangat puas'"]),
    "two words beside known ones": (train, "a.csv", LABELLED + "x,senang\ny,marah\nz,marah\n", "",
                                    ["--label_map=marah=drop,senang=drop"]),
    "a label with a comma": (train, "a.csv", WORDS.replace("marah", '"a,b"'), "", ["--label_column |kelas"]),
    "ids for labels": (train, "a.csv", IDS, "", ["--label_column |kelas"]),
    "words beside mapped ones": (train, "a.csv", NUMBERS, "--label_map 1=positive,0=negative",
                                 ["--label_map=1=positive,0=negative,-1=drop"]),
    "one text in other words": (train, "a.csv", BINARY + "x,Netral\n", "--label_map 1=positive,0=negative",
                                ["--label_map=1=positive,0=negative,neutral=drop"]),
    "one text of a label": (train, "a.csv", LABELLED + "x,marah\ny,lega\n", FIVE,
                            ["--label_map=lega=drop,marah=drop", VALID]),
    "an empty text": (train, "a.csv", LABELLED + ",positif\n", "", ["--on_bad_row skip"]),
    "a bad row": (predict, "a.csv", LABELLED + "x,y,z\n", "", ["--on_bad_row skip"]),
    "predictions": (train, "a.csv", PREDICTED, "", ["--label_column gold"]),
    "labels that are not true": (train, "a.csv", PREDICTED.replace("gold", "label_asli"), "",
                                 ["--label_column label_asli"]),
    "labels of a prediction": (train, "a.csv", PREDICTED.replace("gold\n", "kelas,p_a\n").replace("f\n", "f,1\n"), "",
                               ["--label_column kelas"]),
    "an unknown suffix": (predict, "a.dat", LABELLED, "", ["--input_format csv"]),
    "two sources": (train, "a.csv", LABELLED, f"--data_dir {SAMPLE_DIR}", ["-"]),
    "no SmSA": (train, None, None, "", [f"--data_dir data/sample|{SAMPLE_DIR}"]),
}  # fmt: skip


def write(path: Path, content: str | dict) -> None:
    """Write a file of the format of its suffix."""
    if path.suffix == ".xlsx":
        write_workbook(path, content)
    elif path.suffix == ".parquet":
        pd.DataFrame(content).to_parquet(path)
    else:
        path.write_text(content)


@pytest.mark.parametrize("name", REFUSALS)
def test_an_option_that_a_refusal_names_works_when_it_is_pasted(name, tmp_path, monkeypatch, classifier):
    do, file, content, more, ways_out = REFUSALS[name]
    argv = ["--output", str(tmp_path / "out.jsonl")] if do is predict else []
    if file is None:
        monkeypatch.delenv("SMSA_DATA_DIR", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
    else:
        write(tmp_path / file, content)
        argv += ["--input" if do is predict else "--train_file", str(tmp_path / file)]
    more = shlex.split(more)
    with pytest.raises((UserError, FileNotFoundError)) as raised:
        do([*argv, *more], classifier)
    for way_out in ways_out:
        named, _, value = way_out.partition("|")
        assert (more[0] if named == "-" else named.strip()) in str(raised.value)
        pasted = shlex.split(value if value.startswith("'") else f"{named.split()[0]} {value}" if value else named)
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        if name == "a sheet and a column" and way_out == ways_out[0]:  # which leads to the next question
            more = pasted
        else:
            do([*argv, *([] if named == "-" else [*more, *pasted])], classifier)


@pytest.mark.parametrize("content, output, message, other", [
    ('text\n"a\nb"\n', "out.tsv", "write .csv", "out.csv"),
    ('text,n,"n"\na,1,2\n', "out.jsonl", "two columns.*write .csv", "out.csv"),
    ("text\na\nb\n", "out.xlsx", "write .csv", "out.csv"),
    ("text,n\na,1\n", "out.csv", "a.csv has other columns than .*, or of other .*make --output a folder", "out"),
])  # fmt: skip
def test_another_output_that_a_refusal_names_works(tmp_path, classifier, monkeypatch, content, output, message, other):
    monkeypatch.setattr(writers, "WORKBOOK_ROWS", 1)
    (tmp_path / "a.csv").write_text(content)
    (tmp_path / "0.csv").write_text(content if "write" in message else "text\nb\n")
    inputs = ["--input", *map(str, sorted(tmp_path.glob("*.csv")))]
    with pytest.raises(UserError, match=message):
        predict([*inputs, "--output", str(tmp_path / output)], classifier)
    predict([*inputs, "--output", str(tmp_path / other)], classifier)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "xlsx"])
def test_a_file_of_several_splits_is_refused_wherever_the_second_begins(tmp_path, suffix):
    frame = pd.DataFrame({"teks": "a", "label": "netral", "Jenis": ["Latih"] * 1500 + [None] + ["uji"] * 5})
    for n_rows in (1501, None):
        getattr(frame[:n_rows], {"xlsx": "to_excel"}.get(suffix, f"to_{suffix}"))(tmp_path / f"a.{suffix}", index=False)
        if n_rows:
            assert len(read_rows(tmp_path / f"a.{suffix}")[0]) == n_rows
    with pytest.raises(UserError, match="a.*: the column 'Jenis' says Latih, uji: save the rows of each split"):
        read_rows(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("content, are_split", [
    ("teks,label,x\na,netral,training set\nb,netral,test set\n", True),
    ("teks,label,x\na,netral,data_latih\nb,netral,data_uji\n", True),
    ("teks,label,x,y\na,netral,data,train\nb,netral,data,test\n", True),
    ("teks,label,is_test\na,netral,True\nb,netral,False\n", True),
    ("teks,label\ntest,netral\ntrain,netral\n", False),
    ("teks,label,x,x\na,netral,train,test\nb,netral,test,test\n", False),
    ("teks,label,x\na,netral,val\nb,netral,test\n", False),
    ("teks,label,x\na,netral,train\nb,netral,training\n", False),
    ("teks,label,x\n" + "a,netral,train\nb,netral,test\n" * 600 + "c,netral,kurang jelas\n", False),
])  # fmt: skip
def test_columns_that_part_what_is_trained_on_are_known_and_no_others(tmp_path, content, are_split):
    (tmp_path / "a.csv").write_text(content)
    if are_split:
        with pytest.raises(UserError, match="a.csv: the column '(x|y|is_test)' says"):
            read_rows(tmp_path / "a.csv")
    else:
        assert len(read_rows(tmp_path / "a.csv")[0]) == content.count("netral")


def test_a_baseline_is_fitted_to_a_training_file_alone_with_valid_split_off_it(tmp_path, caplog):
    (tmp_path / "a.csv").write_text(LABELLED)
    argv = ["--kind", "majority", "--train_file", str(tmp_path / "a.csv"), "--output", str(tmp_path / "out")]
    with caplog.at_level(logging.INFO, "smsa"):
        report = baseline.main(*parse(BaselineArguments, DataArguments, argv=argv))
    assert report["data"]["n_texts"] == 4 and "valid: 4 rows split off" in caplog.text
