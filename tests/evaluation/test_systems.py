"""Models and baselines behind one call, and what their labels are called."""

import json

import numpy as np
import pytest

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation.systems import System, load_systems, name_labels, wrap_classifier

UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.fixture
def keyword(tmp_path):
    folder = tmp_path / "keyword"
    folder.mkdir()
    (folder / "baseline.json").write_text(json.dumps({"kind": "keyword", "labels": LABELS}))
    return folder


def test_a_model_of_many_chunks_keeps_the_order_and_gives_an_empty_text_equal_probabilities(classifier):
    texts = [f"{'enak ' * (i % 7)}murah {'abcdefghijklmnopqrst'[i]}" for i in range(20)] + [""]
    system = wrap_classifier("model", classifier)
    found = system.predict(texts, LABELS)
    alone = np.array([[classifier(text)[f"p_{label}"] for label in LABELS] for text in texts[:-1]])
    assert found[:-1] == pytest.approx(alone, abs=1e-6) and len(np.unique(found[:, 0])) > 10
    assert found[-1].tolist() == [1 / 3] * 3
    assert system.predict(texts, LABELS[::-1]) == pytest.approx(found[:, ::-1], abs=1e-12)
    assert system.engine == {"device": "cpu", "backend": "torch", "precision": "no"}
    assert system.predict([], LABELS).shape == (0, 3)


def test_other_labels_than_those_of_the_file_are_refused():
    system = System("x", "x", ("good", "neutral", "bad"), lambda texts: np.zeros((len(texts), 3)))
    with pytest.raises(UserError, match="x has the labels good, neutral, bad, .* do not match"):
        system.predict(["enak"], LABELS)


def test_labels_that_say_nothing_must_be_mapped():
    label_map = "LABEL_0=positive, LABEL_1=neutral,LABEL_2=negative"
    assert name_labels("x", UNNAMED, label_map) == LABELS == name_labels("x", LABELS, label_map)
    assert name_labels("x", UNNAMED, f"{label_map},campur=drop,3=neutral") == LABELS  # of the file, too
    for incomplete in (None, "LABEL_0=positive,LABEL_1=neutral"):
        with pytest.raises(UserError, match="say what each of them means, for example --label_map LABEL_0=") as raised:
            name_labels("x", UNNAMED, incomplete)
        assert name_labels("x", UNNAMED, str(raised.value).split("--label_map ")[1].removesuffix(".")) == LABELS
    with pytest.raises(UserError, match="--label_map LABEL_0=label0,LABEL_1=label1[.]"):
        name_labels("x", UNNAMED[:2], None)
    with pytest.raises(UserError, match="say what each"):
        name_labels("x", UNNAMED, "LABEL_0=a,LABEL_1=a,LABEL_2=b")
    of_files = ("positive=1,negative=0", "positive=4|5,neutral=3,negative=1|2", "1=positive,0=negative,2=drop")
    for of_a_file in (*of_files, "positive=1,neutral=0,negative=-1"):
        assert name_labels("x", LABELS, of_a_file) == LABELS


def test_a_label_map_renames_the_labels_of_a_loaded_system(keyword):
    (system,) = load_systems([str(keyword)], label_map="positive=baik,neutral=netral,negative=buruk")
    assert (system.name, system.kind, system.labels) == ("keyword", "keyword", ("baik", "netral", "buruk"))
    assert system.predict(["kotor dan mahal"], ("buruk", "baik", "netral"))[0].argmax() == 0


def test_systems_are_named_by_what_tells_them_apart(keyword, tmp_path, monkeypatch):
    for name in ("a/keyword", "mini-sentiment"):  # a folder of the name of a bundled model
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(keyword)
    monkeypatch.chdir(tmp_path)
    systems = load_systems(["./mini-sentiment", "keyword/"])
    assert [(system.name, system.kind) for system in systems] == [("mini-sentiment", "keyword"), ("keyword", "keyword")]
    systems = load_systems(["./mini-sentiment", "mini-sentiment"], backend="torch", precision="no")
    assert [system.kind for system in systems] == ["keyword", "model"]
    assert [system.name for system in load_systems(["keyword", "a/keyword"])] == ["keyword", "a/keyword"]
    with pytest.raises(UserError, match="a system is given twice"):
        load_systems(["keyword", "./keyword/"])
    with pytest.raises(UserError, match="keyword is a baseline, which has no --model_revision"):
        load_systems(["keyword"], "main")
