"""A data frame, a list and a file give the same rows to training, prediction and evaluation."""

import pandas as pd
import pytest
from conftest import SAMPLE_DIR
from datasets import Dataset

import smsa


def test_a_frame_a_list_and_a_file_are_predicted_alike(tmp_path):
    texts = ["enak sekali", "kotor dan mahal", ""]
    frame = pd.DataFrame({"id": [7, 8, 9], "Ulasan": texts}, index=[3, 5, 8])
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    found = smsa.predict(frame)
    assert found.index.tolist() == [3, 5, 8] and found.columns[:3].tolist() == ["id", "Ulasan", "label"]
    for same in (texts, Dataset.from_pandas(frame, preserve_index=False), tmp_path / "a.xlsx"):
        assert smsa.predict(same)["label"].tolist() == found["label"].tolist()


def test_a_frame_is_evaluated(tmp_path):
    frame = pd.DataFrame({"komentar": ["enak sekali", "kotor sekali"], "Bintang": [5, 1]})
    report = smsa.evaluate(frame, label_column="Bintang", label_map="5=positive,1=negative")
    assert report["data"]["labels"] == {"positive": 1, "neutral": 0, "negative": 1}


@pytest.mark.slow
def test_a_frame_is_trained_on(tmp_path):
    rows = pd.read_csv(SAMPLE_DIR / "train_preprocess.tsv", sep="\t", names=["teks", "label"], quoting=3)
    scores = smsa.train(rows, str(tmp_path / "run"), max_steps=2, report_to="none")
    assert 0 <= scores["eval_f1"] <= 1
    assert set(smsa.predict(["enak"], str(tmp_path / "run"))["label"]) <= set(smsa.LABELS)
