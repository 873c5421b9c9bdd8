"""Tables, files and the record of a run."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from smsa.evaluation import figures
from smsa.evaluation.statistics import (
    count_confusion,
    resample,
    score_confusion,
    score_labels,
)
from smsa.files import write_json
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
    """As in a run of 1.5 epochs that was lengthened to 2."""
    halfway = [epoch(0.5, "train", 0.4, learning_rate=1e-5), epoch(0.5, "eval", 0.3)]
    pd.testing.assert_frame_equal(results.history_table(halfway + HISTORY), results.history_table(HISTORY))


def test_a_score_that_is_not_a_number_is_not_that_of_before():
    history = [epoch(0.5, "train", 0.4), epoch(1.0, "train", float("nan"))]
    assert results.history_table(history)["train_loss"].isna().all()


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1]], ids=["three epochs", "one, without valid"])
def test_the_history_is_drawn(tmp_path, history):
    figures.draw_history(results.history_table(history), 1, tmp_path / "history.png")
    pixels = np.asarray(Image.open(tmp_path / "history.png").convert("RGB"))
    assert pixels.shape[1] > 1000
    blue = np.abs(pixels.astype(int) - (0x00, 0x72, 0xB2)).sum(-1) < 30  # the line of train
    assert blue.sum() > 10
    assert (pixels[0] == 255).all()  # a page of its own colour, light or dark around it


def test_intervals_are_those_of_the_scores_they_are_named_for():
    gold = np.repeat([0, 1, 2], [30, 10, 20])
    logits = np.random.default_rng(0).normal(size=(60, 3)) + 2 * np.eye(3)[gold]
    found = results.measure_certainty(gold, logits, LABELS)["intervals"]
    drawn = resample(count_confusion(gold, logits.argmax(-1), 3), seed=0)
    expected = {f"f1_{label}": scores for label, scores in zip(LABELS, score_labels(drawn)["f1"].T, strict=True)}
    expected |= score_confusion(drawn)
    assert found.keys() == expected.keys()
    for score, values in expected.items():
        assert found[score] == pytest.approx(np.quantile(values, [0.025, 0.975])), score


def test_predictions_are_rows_in_order_with_probabilities():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], dtype=np.float32))
    table = results.predictions_table(["a", "b"], np.array([0, 1]), logits, LABELS)
    assert table.columns.tolist() == ["text", "gold", "label", "p_positive", "p_neutral", "p_negative"]
    assert table["gold"].tolist() == ["positive", "neutral"]
    assert table["label"].tolist() == ["positive", "negative"]
    assert table[["p_positive", "p_neutral", "p_negative"]].to_numpy() == pytest.approx(np.exp(logits))


def test_predictions_keep_hostile_texts_to_the_letter(tmp_path):
    texts = ["NA", "null", '"', "a,b", "a\nb", "a\r\nb", "a\rb", "\r", "=1+1", "\u2028", "👍"]
    table = results.predictions_table(texts, np.zeros(len(texts), dtype=int), np.zeros((len(texts), 3)), LABELS)
    results.write_predictions(table, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts


def test_submission_is_the_benchmarks_format(tmp_path):
    results.write_submission(pd.DataFrame({"text": ["a", "b"], "label": ["neutral", "positive"]}), tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "index,label\n0,neutral\n1,positive\n"


def test_label_table_reads_as_a_table():
    scores = score_label_ids([0, 0, 1, 2], [0, 1, 1, 2]) | {"loss": 0.5}
    lines = results.label_table(scores, LABELS).splitlines()
    assert lines[1].split() == ["positive", "50.00", "100.00", "66.67", "1"]
    assert lines[4].split() == ["macro", "83.33", "83.33", "77.78", "4"]
    assert lines[5] == "accuracy 75.00, loss 0.5000"
    assert len({len(line) for line in lines[:5]}) == 1


def test_json_is_readable_and_keeps_letters(tmp_path):
    write_json({"text": "é👍"}, tmp_path / "a.json")
    assert io.open(tmp_path / "a.json", encoding="utf-8").read() == '{\n  "text": "é👍"\n}\n'
