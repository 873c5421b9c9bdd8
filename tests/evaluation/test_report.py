"""From a labelled file and systems whose predictions are written down to report.json, report.md and pictures."""

import hashlib
import re
import sys
from itertools import combinations
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from conftest import contents, read_json
from sklearn.metrics import confusion_matrix, f1_score

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation import figures, statistics
from smsa.evaluation.perturbations import is_smsa_style
from smsa.evaluation.report import LabelledFile, evaluate, evaluate_system, render_report, write_report
from smsa.evaluation.systems import System
from smsa.training.metrics import score_label_ids

ROWS = {
    "Enak banget!": "positive",
    "murah dan ramah .": "positive",
    "pergi ke pasar": "neutral",
    "kotor": "negative",
    "mahal sekali": "negative",
    "lambat ,[link] | *kecewa*": "negative",
}
PROBABILITIES = [
    *([0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]),
    *([0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.95, 0.03, 0.02]),
]
GOLD, PREDICTED = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0]


def make_system(probabilities=PROBABILITIES, labels=LABELS, name="system") -> System:
    """A system whose predictions are written down, over and over."""
    return System(name, "written", labels, lambda texts: np.resize(probabilities, (len(texts), len(labels))))


def read_rows(path, rows, **options) -> LabelledFile:
    path.write_text("".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return LabelledFile.read(path, LABELS, **options)


@pytest.fixture
def data(tmp_path):
    return read_rows(tmp_path / "six.tsv", ROWS.items())


def test_metrics_are_right_and_each_label_has_an_interval_of_its_own(data):
    system = evaluate_system(make_system(), data, np.array(PROBABILITIES))
    assert system["confusion"] == confusion_matrix(GOLD, PREDICTED).tolist()
    expected = score_label_ids(PREDICTED, GOLD)
    for name in statistics.METRICS:
        assert system["metrics"][name]["value"] == pytest.approx(expected[name])
    for label, metrics in system["labels"].items():
        assert metrics["f1"]["value"] == pytest.approx(expected[f"f1_{label}"])
        for name in ("recall", "precision", "n"):
            assert metrics[name] == pytest.approx(expected[f"{name}_{label}"])
    assert len({(metrics["f1"]["low"], metrics["f1"]["high"]) for metrics in system["labels"].values()}) == 3
    slices = system["slices"]  # over the labels that each has
    counts = {title: (part["n"], part["n_labels"]) for title, part in slices.items()}
    assert counts == {"1 to 10 words": (6, 3), "in SmSA's style": (5, 3), "raw": (1, 1)}
    without_first = f1_score(GOLD[1:], PREDICTED[1:], average="macro")
    assert slices["in SmSA's style"]["f1"]["value"] == pytest.approx(without_first)
    assert slices["raw"]["f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_most_confident_errors_are_listed_with_their_lines(tmp_path):
    data = read_rows(tmp_path / "many.tsv", [(f"teks {i}", "positive" if i else "neutral") for i in range(30)])
    wrong = make_system([[0.0, 0.6 + i / 100, 0.4 - i / 100] for i in range(30)])
    errors = evaluate_system(wrong, data, wrong.predict(data.texts, LABELS))["errors"]
    assert [error["line"] for error in errors] == [*range(30, 10, -1)]
    expected = {"file": "many.tsv", "line": 30, "gold": "positive", "predicted": "neutral", "text": "teks 29"}
    assert errors[0] == expected | {"confidence": pytest.approx(0.89)}


def test_slices_are_by_length_by_style_and_by_what_train_has(tmp_path):
    plain = {"enak , murah .": True, "Enak": False, "enak,murah": False, "enak!": False, "12 : 30": True, "": True}
    assert {text: is_smsa_style(text) for text in plain} == plain
    (tmp_path / "train.csv").write_text("ulasan,bintang\nkotor,1\nlain,3\n", encoding="utf-8")  # of another layout
    texts = [*(" ".join(["enak"] * n) for n in (1, 10, 11, 25, 26)), "kotor"]
    rows = zip(texts, ROWS.values(), strict=True)
    slices = read_rows(tmp_path / "data.tsv", rows, train_path=tmp_path / "train.csv", text_column="text").slices()
    expected = {"1 to 10 words": [0, 1, 5], "11 to 25 words": [2, 3], "26 words or more": [4]}
    expected |= {"in SmSA's style": [*range(6)], "also in train": [5], "not in train": [*range(5)]}
    assert {title: mask.nonzero()[0].tolist() for title, mask in slices.items()} == expected
    data = pd.DataFrame({"text": ["x", "y"], "ulasan": ["kotor", "mahal"], "label": ["positive", "negative"]})
    data.to_excel(tmp_path / "data.xlsx", sheet_name="Data", index=False)
    data.to_excel(tmp_path / "train.xlsx", sheet_name="Train", index=False)  # no Data
    data[["text", "ulasan"]].to_csv(tmp_path / "train.csv", index=False)  # no labels
    options = {"text_column": "ulasan", "sheet": "Data"}
    for train in ("data.xlsx", "train.xlsx", "train.csv"):
        assert LabelledFile.read(tmp_path / "data.xlsx", LABELS, tmp_path / train, **options).rows["seen"].all()


def test_every_pair_of_systems_is_compared_and_the_pictures_show_the_numbers_of_the_report(data):
    names = ["s0", "s1", "s2", "indobert-base-p1 of five folds, the first"]
    report = evaluate([make_system(np.roll(PROBABILITIES, k, axis=0), name=names[k]) for k in range(4)], data, seed=2)
    pairs = [(pair["a"], pair["b"]) for pair in report["comparisons"]]
    assert pairs == [*combinations(names, 2)]
    expected = statistics.compare(np.array(GOLD), np.array(PREDICTED), np.roll(PREDICTED, 1), 3, seed=2)
    assert expected.items() <= report["comparisons"][0].items()
    system = report["systems"][0]
    panels = figures.draw_confusion(report).axes
    assert [axes.get_title() for axes in panels] == [*names[:3], "indobert-base-p1 of five\nfolds, the first"]
    shown = [text.get_text().replace("\n", " ") for text in panels[0].texts]
    assert shown == ["1 50%", "1 50%", "0 0%", "0 0%", "1 100%", "0 0%", "2 67%", "0 0%", "1 33%"]
    (axes,) = figures.draw_metrics(report).axes
    f1 = [system["metrics"]["f1"], *(metrics["f1"] for metrics in system["labels"].values())]
    assert [text.get_text() for text in axes.texts[:4]] == [f"{100 * score['value']:.1f}" for score in f1]
    assert len({tuple(figures._mark(k).values()) for k in range(12)}) == 12
    history = {"epoch": [1.0], "valid_loss": [np.inf], "valid_f1": [0.0], "learning_rate": [0.0]}
    assert [axes.get_ylim()[0] for axes in figures.draw_history(pd.DataFrame(history)).axes] == [0, 0, 0]
    marks = figures.draw_reliability(report).axes[0].collections[0].get_offsets().tolist()
    assert marks == [[bin_["confidence"], bin_["accuracy"]] for bin_ in system["calibration"]["bins"]]


def test_a_report_is_written_whole_and_replaces_an_earlier_one(tmp_path, data, monkeypatch, caplog):
    folder, report = tmp_path / "report", evaluate([make_system(name="first")], data, seed=3)
    write_report(report, folder)
    assert read_json(folder / "report.json") == report and report["intervals"]["seed"] == 3
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", *figures.PICTURES[:3]}
    assert report["data"]["sha256"] == hashlib.sha256(data.path.read_bytes()).hexdigest()

    before, other = contents(folder), evaluate([make_system(name="second")], data)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(figures, "draw_report", Mock(side_effect=OSError(28, "No space left")))
        write_report(other, folder)
    assert contents(folder) == before

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as where it is not installed
    write_report(other, folder)
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md"}
    assert "were not drawn: pip install -e" in caplog.text
    text = (folder / "report.md").read_text()
    assert "first" not in text and "second" in text and ".png" not in text


def test_a_file_of_two_labels_is_evaluated_over_these(tmp_path):
    """Who answers with the third label errs; beside it stands what it would answer if it had these two only."""
    (tmp_path / "a.csv").write_text("ulasan,Sentimen\na,1\nb,0\nc,1\nd,0\n")
    data = LabelledFile.read(tmp_path / "a.csv", LABELS, label_map="positive=1,negative=0")
    perfect, unsure = ([[x, y, 0.0], [0.0, 0.1, 0.9]] * 2 for x, y in ((0.9, 0.1), (0.4, 0.6)))
    of_two = make_system([[0.9, 0.1], [0.1, 0.9]] * 2, ("Positif", "Negatif"))  # cannot answer otherwise
    report = evaluate([make_system(perfect, name="a"), make_system(unsure, name="b"), of_two], data)
    for name in ("accuracy", "f1"):
        assert [system["metrics"][name]["value"] for system in report["systems"]] == [1.0, 0.5, 1.0]
        assert [system["metrics_without_absent"][name]["value"] for system in report["systems"]] == [1.0] * 3
    (axes,) = figures.draw_metrics(report).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all (macro)", "positive", "negative"]
    text = render_report(report, [])
    assert "No text is neutral" in text and "| b, if it answers with the labels of the file only | 100.0 " in text
    of_others = [System("of others", "x", labels, None) for labels in (("0", "1"), ("positive", "negative", "2"))]
    options = ("neutral=drop", "0=...,1=...", "positive=...,negative=...,2=...")
    for system, option in zip([of_two, *of_others], options, strict=True):
        with pytest.raises(UserError, match=f"has the labels .* --label_map={option}"):
            evaluate([System("never asked", "x", LABELS, None), system], read_rows(tmp_path / "six.tsv", ROWS.items()))


def test_no_name_label_or_text_breaks_a_table_of_the_report(tmp_path):
    hostile = ["|a\r\nb &amp; $5 ~x~", "`*_[]#<>", "\\|\t\u2028", " ", "||", "\n\n| |"]
    (tmp_path / "any.tsv").touch()
    rows = pd.DataFrame({"text": [hostile[0]] * 5, "label": [0, 1, 2, 0, 1], "line": range(1, 6)})
    labels, names = tuple(f"{word}L" for word in hostile[1:4]), [f"{word}N" for word in hostile[4:]]
    systems = [make_system(labels=labels, name=name) for name in names]
    text = render_report(evaluate(systems, LabelledFile(tmp_path / "any.tsv", labels, rows)), [])
    assert r": \|a b \&amp; \$5 \~x\~" in text
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    # metrics, F1 by label, the labels of either system, kinds of text, with two lines of titles
    assert [table.count("\n") for table in tables] == [4, 4, 5, 5, 5]
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
