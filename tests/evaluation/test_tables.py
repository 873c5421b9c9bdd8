"""A data frame, a list and a file give the same rows to training, prediction and evaluation."""

import pandas as pd
import pyarrow as pa
import pytest
from conftest import SAMPLE_DIR
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import TrainerState

import smsa
from smsa.data.reader import Source
from smsa.errors import UserError
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


def test_the_names_of_a_class_label_say_what_its_numbers_mean():
    rows = Dataset.from_dict({"teks": ["enak", "kotor"], "label": [0, 1]})
    rows = rows.cast_column("label", ClassLabel(names=["positive", "negative"]))
    assert smsa.evaluate(rows, FAST)["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}


def test_a_row_that_a_line_break_tore_apart_is_two_bad_rows(tmp_path):
    (tmp_path / "a.csv").write_text("No,Ulasan,Label\n1,enak,pos\n2,sering keluar\nya,neg\n3,jauh,neg\n")
    (chunk,) = Source(tmp_path / "a.csv").chunks(9)
    assert chunk.texts.to_pylist() == ["enak", "jauh"] and [row.line for _, row in chunk.bad_rows] == [3, 4]


def test_cells_of_numbers_and_words_are_words_and_names_stand_once():
    frame = pd.DataFrame({"ulasan": ["enak", None, "kotor"], "bintang": [5, "4 bintang", None]})
    found = smsa.predict(frame, FAST)
    assert found["bintang"].tolist()[:2] == ["5", "4 bintang"]
    assert found["ulasan"].isna().tolist() == [False, True, False]
    with pytest.raises(ValueError, match="Duplicate column names"):
        smsa.predict(frame.set_axis(["ulasan", "ulasan"], axis=1), FAST)


def test_a_frame_is_evaluated():
    frame = pd.DataFrame({"komentar": ["enak sekali", "kotor sekali", ""], "Bintang": [5, 1, 1]})
    options = {"label_column": "Bintang", "label_map": "5=positive,1=negative"}
    with pytest.raises(UserError, match="--on_bad_row skip"):
        smsa.evaluate(frame, **options)
    report = smsa.evaluate(frame, **options, on_bad_row="skip")
    assert report["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}


def test_what_only_the_script_can_do_is_refused_before_training(tmp_path):
    for options in ({"resume": "auto"}, {"seeds": [1]}, {"push_to_hub": True, "hub_model_id": "a/b"}):
        with pytest.raises(UserError, match="go with scripts/finetune.py"):
            smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path / "run"), **options)
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match="has a run of a script"):
        smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path))


@pytest.mark.slow
def test_a_frame_is_trained_on(tmp_path):
    rows = pd.read_csv(SAMPLE_DIR / "train_preprocess.tsv", sep="\t", names=["teks", "label"], quoting=3)
    state = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
    scores = smsa.train(rows, tmp_path / "run", max_steps=2, report_to="none", labels=list(smsa.LABELS))
    assert 0 <= scores["eval_f1"] <= 1 and TrainerState.load_from_json(state).log_history[0]["learning_rate"] > 1e-4
    assert set(smsa.predict(["enak"], str(tmp_path / "run"))["label"]) <= set(smsa.LABELS)
