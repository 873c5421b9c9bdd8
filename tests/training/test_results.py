"""Tables, files and the record of a run."""

import csv

import numpy as np
import pandas as pd
import pytest
from transformers.trainer_utils import PredictionOutput

from smsa.training import results
from smsa.training.metrics import score_label_ids

LABELS = ("positive", "neutral", "negative")


def epoch(number, split, f1, **more):
    return {"epoch": number, **{f"{split}_{score}": f1 for score in results.MACRO_SCORES}, **more}


HISTORY = [
    epoch(1.0, "train", 0.5, learning_rate=1e-5),
    epoch(1.0, "eval", 0.6),
    epoch(2.0, "train", 0.7, learning_rate=9e-6),
    epoch(3.0, "train", 0.8, learning_rate=8.1e-6),
    epoch(3.0, "eval", 0.55),
    {"epoch": 3.0, "train_runtime": 5.0, "train_loss": 0.1},
]


def test_history_has_a_row_an_epoch_and_gaps_where_valid_was_not_scored():
    table = results.history_table(HISTORY)
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["learning_rate"].tolist() == [1e-5, 9e-6, 8.1e-6]
    assert table["train_f1"].tolist() == [0.5, 0.7, 0.8]
    assert table["valid_f1"].isna().tolist() == [False, True, False]
    assert table["valid_loss"].dropna().tolist() == [0.6, 0.55]


def test_an_epoch_that_came_twice_has_the_scores_of_its_end():
    """As in a run of 1.5 epochs that was lengthened to 2; also where the later score is not a number."""
    halfway = [epoch(0.5, "train", 0.4, learning_rate=1e-5), epoch(0.5, "eval", 0.3)]
    pd.testing.assert_frame_equal(results.history_table(halfway + HISTORY), results.history_table(HISTORY))
    assert results.history_table([*halfway, epoch(1.0, "train", float("nan"))])["train_loss"].isna().all()


def make_output(logits, label_ids) -> PredictionOutput:
    return PredictionOutput(np.asarray(logits, dtype=np.float32), np.asarray(label_ids), {})


def test_predictions_keep_hostile_texts_to_the_letter_with_probabilities(tmp_path):
    texts = ["NA", "null", '"', "a,b", "a\nb", "a\r\nb", "a\rb", "\r", "=1+1", "\u2028", "👍"]
    logits = np.log([[0.7, 0.2, 0.1], *[[0.1, 0.2, 0.7]] * (len(texts) - 1)])
    results.write_predictions(make_output(logits, [0, 1, *[2] * 9]), texts, LABELS, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "gold", "label", "p_positive", "p_neutral", "p_negative"]
    assert [row["text"] for row in rows] == texts
    assert [(row["gold"], row["label"]) for row in rows[:3]] == [
        ("positive", "positive"), ("neutral", "negative"), ("negative", "negative"),
    ]  # fmt: skip
    assert [[float(row[f"p_{label}"]) for label in LABELS] for row in rows] == pytest.approx(np.exp(logits), abs=1e-6)


def test_submission_is_the_benchmarks_format(tmp_path):
    results.write_submission(make_output([[0, 1, 0], [1, 0, 0]], [0, 0]), LABELS, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "index,label\n0,neutral\n1,positive\n"


def test_label_table_reads_as_a_table():
    scores = score_label_ids([0, 0, 1, 2], [0, 1, 1, 2]) | {"loss": 0.5}
    lines = results.label_table(scores, LABELS).splitlines()
    assert lines[1].split() == ["positive", "50.00", "100.00", "66.67", "1"]
    assert lines[4].split() == ["macro", "83.33", "83.33", "77.78", "4"]
    assert lines[5] == "accuracy 75.00, loss 0.5000"
    assert len({len(line) for line in lines[:5]}) == 1
