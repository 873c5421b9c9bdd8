"""A data frame, a list and a file give the same rows to training, prediction and evaluation."""

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import SAMPLE_DIR
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import TrainerState

import smsa
from smsa.errors import UserError
from smsa.models.loading import FAST


@pytest.fixture(scope="module")
def classifier():
    return smsa.SentimentClassifier.from_pretrained(FAST, num_threads=1)


def test_tables_texts_and_files_of_every_kind_are_predicted_alike(classifier, tmp_path, monkeypatch):
    texts = ["enak sekali", "kotor dan mahal", ""]
    frame = pd.DataFrame({"id": [7, 8, 9], "Ulasan": texts}, index=[3, 5, 5])  # no two rows need have two names
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    found = smsa.predict(frame, classifier)
    assert found.columns[:3].tolist() == ["id", "Ulasan", "label"] and found["id"].equals(frame["id"])
    rows, arrow = Dataset.from_pandas(frame, preserve_index=False), pa.Table.from_pandas(frame, preserve_index=False)
    tables = [rows, rows.to_iterable_dataset(), arrow, *arrow.to_batches(), arrow.to_pylist(), arrow.to_pydict()]
    columns = [texts, tuple(texts), iter(texts), np.array(texts), frame["Ulasan"], rows["Ulasan"], arrow["Ulasan"]]
    monkeypatch.setenv("HOME", str(tmp_path))
    for same in (*tables, *columns, arrow.to_reader(), tmp_path / "a.xlsx", "~/a.xlsx"):  # DuckDB gives a reader
        assert smsa.predict(same, classifier)["label"].tolist() == found["label"].tolist()
    for indexed in (frame, frame["Ulasan"], frame.set_axis([0, 1], axis=1)):
        predicted = smsa.predict(indexed, FAST, text_column=indexed.columns[1] if indexed.ndim == 2 else None)
        assert predicted.index.equals(frame.index)
        assert predicted.columns[: -len(found.columns) + 2].equals(pd.DataFrame(indexed).columns)
    assert smsa.predict([], classifier).columns.tolist() == ["text", *found.columns[2:]]
    assert smsa.predict(frame[:0], classifier).columns.tolist() == found.columns.tolist()
    with pytest.raises(UserError, match=r"several tables \(train\): give one, as data\['train'\]"):
        smsa.predict(DatasetDict(train=rows), classifier)
    with pytest.raises(FileNotFoundError, match="enak sekali does not exist.*in Python put texts in a list"):
        smsa.predict("enak sekali", classifier)


def test_large_numbers_stay_what_they_are_where_one_is_missing(classifier):
    """Floats, which pandas makes of them, have no room for the id of a tweet."""
    columns = {"text": ["enak", "kotor"], "id": [2**60 + 1, None]}
    objects, arrow = pd.DataFrame(columns, dtype=object), pa.table(columns)
    for table in (objects, objects.astype({"id": "Int64"}), arrow, Dataset(arrow), arrow.to_pylist(), columns):
        assert smsa.predict(table, classifier)["id"].tolist()[0] == 2**60 + 1


def test_rows_that_are_left_keep_their_numbers_and_half_a_character_is_told(classifier, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "enak"}\n{"text": 1}\n{"text": "kotor"}\n')
    assert smsa.predict(tmp_path / "a.jsonl", classifier, on_bad_row="skip").index.tolist() == [0, 2]
    text = "enak \ud83d\ude42 \ud83d"
    with pytest.raises(UserError, match=r"'enak .* holds half a character .a lone surrogate.: (.*) replaces") as error:
        smsa.predict([text], classifier)
    way_out = eval(re.search(r": (.*) replaces", str(error.value))[1])
    assert way_out == "enak 🙂 \ufffd" and not smsa.predict([way_out], classifier)["empty"][0]


def test_the_names_of_a_class_label_say_what_its_numbers_mean():
    rows = Dataset.from_dict({"teks": ["enak", "kotor"], "label": [0, 1]})
    rows = rows.cast_column("label", ClassLabel(names=["positive", "negative"]))
    assert smsa.evaluate(rows, FAST)["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}


def test_cells_of_numbers_and_words_are_words(classifier):
    frame = pd.DataFrame({"ulasan": ["enak", None, 5], "bintang": [5, "4 bintang", None]})
    found = smsa.predict(frame, classifier)
    assert found["empty"].tolist() == [False, True, False] and found["bintang"].equals(frame["bintang"])


def test_a_frame_is_evaluated(classifier, monkeypatch):
    frame = pd.DataFrame({"komentar": ["enak sekali", "kotor sekali", ""], "Bintang": [5, 1, 1]})
    options = {"label_column": "Bintang", "label_map": "5=positive,1=negative"}
    with pytest.raises(UserError, match="--on_bad_row skip"):
        smsa.evaluate(frame, classifier, **options)
    of_name, of_classifier = (smsa.evaluate(frame, m, **options, on_bad_row="skip") for m in (FAST, classifier))
    assert of_name["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}
    assert of_classifier["systems"][0]["metrics"] == of_name["systems"][0]["metrics"]
    monkeypatch.setattr(classifier, "labels", ("LABEL_0", "LABEL_1", "LABEL_2"))
    frame["Bintang"], label_map = ["positif", "negatif", ""], "LABEL_0=positive,LABEL_1=neutral,LABEL_2=negative"
    options = {"label_column": "Bintang", "label_map": label_map, "on_bad_row": "skip"}
    assert smsa.evaluate(frame, classifier, **options)["data"]["labels"] == of_name["data"]["labels"]


def test_what_only_the_script_can_do_is_refused_before_training(tmp_path):
    for options in ({"resume": "auto"}, {"seeds": [1]}, {"push_to_hub": True, "hub_model_id": "a/b"}):
        with pytest.raises(UserError, match="go with scripts/finetune.py"):
            smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path / "run"), **options)
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match="has a run of a script"):
        smsa.train(SAMPLE_DIR / "train_preprocess.tsv", str(tmp_path))


@pytest.mark.slow
def test_a_frame_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = pd.read_csv(SAMPLE_DIR / "train_preprocess.tsv", sep="\t", names=["teks", "label"], quoting=3)
    rows.loc[0, "label"] = None
    state, options = tmp_path / "run" / "checkpoint-2" / "trainer_state.json", {"max_steps": 2, "report_to": "none"}
    scores = smsa.train(rows, "~/run", labels=list(smsa.LABELS), on_bad_row="skip", **options)
    assert 0 <= scores["eval_f1"] <= 1 and TrainerState.load_from_json(state).log_history[0]["learning_rate"] > 1e-4
    assert (tmp_path / "run" / "rejects.jsonl").exists()
    assert set(smsa.predict(["enak"], "~/run")["label"]) <= set(smsa.LABELS)
