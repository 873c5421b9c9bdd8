"""A data frame, a list and a file give the same rows to training, prediction and evaluation."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from conftest import SAMPLE_DIR
from datasets import ClassLabel, Dataset, DatasetDict
from tables import write_workbook
from transformers import TrainerState

import smsa
from smsa.data.datasets import load_splits
from smsa.errors import UserError
from smsa.evaluation.report import LabelledFile
from smsa.models.loading import FAST


def test_a_frame_a_list_and_a_file_are_predicted_alike(tmp_path):
    texts = ["enak sekali", "kotor dan mahal", ""]
    frame = pd.DataFrame({"id": [7, 8, 9], "Ulasan": texts}, index=[3, 5, 8])
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    found = smsa.predict(frame, FAST)
    assert found.index.tolist() == [3, 5, 8] and found.columns[:3].tolist() == ["id", "Ulasan", "label"]
    arrow = pa.Table.from_pandas(frame)
    for same in (texts, Dataset.from_pandas(frame, preserve_index=False), tmp_path / "a.xlsx", arrow):
        assert smsa.predict(same, FAST)["label"].tolist() == found["label"].tolist()
    twice = pd.DataFrame({0: texts, 1: ["dan", "lalu", "itu"]})
    assert smsa.predict(twice, FAST, text_column=0)["label"].tolist() == found["label"].tolist()
    assert smsa.predict([], FAST).columns.tolist() == ["text", *found.columns[2:]]
    assert smsa.predict(frame[:0], FAST).columns.tolist() == found.columns.tolist()
    with pytest.raises(UserError, match=r"several tables \(train\): give one, as data\['train'\]"):
        smsa.predict(DatasetDict(train=Dataset.from_dict({"text": texts})), FAST)


def test_the_names_of_a_class_label_say_what_its_numbers_mean(tmp_path):
    rows = Dataset.from_dict({"teks": ["enak", "kotor"], "label": [0, 1]})
    rows = rows.cast_column("label", ClassLabel(names=["positive", "negative"]))
    rows.to_parquet(tmp_path / "a.parquet")
    for data in (rows, tmp_path / "a.parquet"):
        assert smsa.evaluate(data, FAST)["data"]["n_texts"] == 2
    assert smsa.read_rows(tmp_path / "a.parquet")[1] == [0, 2]


DATA = [["Laporan"], [], ["No", "Ulasan", "Sentimen"]]
DATA += [[1, "enak", "Positif"], [2, None, "netral"], [], [3, "jauh", "neg"]]
# A file, what is in it, and the lines that training and evaluation, and that prediction, cannot take
ODD = {
    "Excel": ("a.xlsx", {"Ringkasan": [["n"], [3]], "Data": [*DATA, [4, "ya", None]]}, [5, 8], []),
    "torn": ("a.csv", "No,Ulasan,Label\n1,enak,pos\n2,sering keluar\nya,neg\n3,jauh,neg\n", [3, 4], [3, 4]),
    "quotes and commas": ("a.csv", 'Ulasan,Label,n\nenak,pos,1\njauh,neg\na,b,net,1\n"ya,net\n', [4, 5], [4, 5]),
    "empty texts": ("a.csv", "Ulasan;Label\n;pos\nenak; Pos\n \t;net\njauh;NEG\n\n", [2, 4], []),
    "broken bytes": ("a.tsv", b"enak\tpos\nja\xffuh\tneg\njauh\tneg\n", [2], [2]),
    "no label": ("a.jsonl", '{"teks":"enak","label":"pos"}\n{"teks":"x"}\n{"teks":"jauh","label":"neg"}\n', [2], []),
}


@pytest.mark.parametrize("name, content, refused, unread", ODD.values(), ids=ODD)
def test_training_evaluation_and_prediction_agree_on_the_rows_of_an_odd_file(
    tmp_path, classifier, name, content, refused, unread
):
    path, rejects, others = tmp_path / name, [], []
    if isinstance(content, dict):
        write_workbook(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    trained = load_splits({"train": path}, rejects=rejects)["train"]
    evaluated = LabelledFile.read(path, smsa.LABELS, rejects=others)
    assert trained["text"][:] == evaluated.texts == ["enak", "jauh"]
    assert trained["label"][:] == evaluated.gold.tolist() == [0, 2]
    assert [row.line for row in rejects] == [row.line for row in others] == refused
    output = tmp_path / "out.jsonl"
    (summary,) = smsa.predict_files(classifier, path, output, on_bad_row="skip")
    predicted = [[*json.loads(line).values()] for line in output.read_text().splitlines()]
    assert [text for row in predicted for text in row if text in ("enak", "jauh")] == ["enak", "jauh"]
    assert summary["read"] == len(trained) + len(refused) and summary["read"] - summary["rejected"] == len(predicted)
    apart = [*tmp_path.glob("out.jsonl.rejects.jsonl")]
    assert [json.loads(line)["line"] for path in apart for line in path.read_text().splitlines()] == unread


def test_cells_of_numbers_and_words_are_words_and_names_stand_once():
    frame = pd.DataFrame({"ulasan": ["enak", None, "kotor"], "bintang": [5, "4 bintang", None]})
    found = smsa.predict(frame, FAST)
    assert found["bintang"].tolist()[:2] == ["5", "4 bintang"]
    assert found["ulasan"].isna().tolist() == [False, True, False]
    with pytest.raises(UserError, match="two columns of one name: ulasan, ulasan"):
        smsa.predict(frame.set_axis(["ulasan", "ulasan"], axis=1), FAST)


def test_a_frame_is_evaluated(tmp_path):
    frame = pd.DataFrame({"komentar": ["enak sekali", "kotor sekali", ""], "Bintang": [5, 1, 1]})
    options = {"label_column": "Bintang", "label_map": "5=positive,1=negative"}
    with pytest.raises(UserError, match="--on_bad_row skip"):
        smsa.evaluate(frame, **options)
    report = smsa.evaluate(frame, **options, on_bad_row="skip")
    assert report["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}


@pytest.mark.parametrize("options", [{"resume": "auto"}, {"seeds": [1]}, {"push_to_hub": True, "hub_model_id": "a/b"}])
def test_options_of_the_script_are_refused_before_training(tmp_path, options):
    with pytest.raises(UserError, match="go with scripts/finetune.py"):
        smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path / "run"), **options)
    with pytest.raises(UserError, match="give at least two"):
        smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path), labels=["positive"])
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match="README.md and metrics.json are not of a new model"):
        smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path))


@pytest.mark.slow
def test_a_frame_is_trained_on(tmp_path):
    rows = pd.read_csv(SAMPLE_DIR / "train_preprocess.tsv", sep="\t", names=["teks", "label"], quoting=3)
    state = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
    scores = smsa.train(rows, tmp_path / "run", max_steps=2, report_to="none")
    assert 0 <= scores["eval_f1"] <= 1 and TrainerState.load_from_json(state).log_history[0]["learning_rate"] > 1e-4
    assert set(smsa.predict(["enak"], str(tmp_path / "run"))["label"]) <= set(smsa.LABELS)
