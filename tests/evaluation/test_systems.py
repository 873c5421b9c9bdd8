"""Models and baselines behind one call, and what their labels are called."""

import numpy as np
import pytest
from conftest import save_tiny

from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation.baselines import Keyword, save_baseline
from smsa.evaluation.systems import System, load_systems, name_labels, was_trained_on, wrap_classifier
from smsa.files import hash_file, write_json

UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")
NAMING = "LABEL_0=positive, LABEL_1=neutral,LABEL_2=negative"


def test_a_model_keeps_its_probabilities_and_gives_an_empty_text_equal_ones(classifier):
    system, (row,) = wrap_classifier("model", classifier), classifier(["enak"])
    enak, empty = system.predict(["enak", ""], LABELS)
    assert enak == pytest.approx([row[f"p_{label}"] for label in LABELS], abs=1e-6)
    assert empty.tolist() == [1 / 3] * 3 and system.predict([], LABELS).shape == (0, 3)


@pytest.mark.parametrize("labels, columns", [
    (LABELS[::-1], [2, 1, 0]), (("Negatif", "Netral", "Positif"), [2, 1, 0]), (("pos", "neg"), [0, 2]),
    (("good", "neutral", "negative"), None), (("positive", "pos", "negative"), None), (("0", "1"), None),
])  # fmt: skip
def test_labels_are_matched_by_what_they_mean(labels, columns):
    system = System("x", "x", labels, lambda texts: np.tile(range(1, len(labels) + 1), (len(texts), 1)))
    if columns is None:
        with pytest.raises(UserError, match=f"x has the labels {', '.join(labels)}, .* do not match.*={labels[0]}=..."):
            system.predict(["enak"], LABELS)
    else:
        expected = [columns.index(i) + 1 if i in columns else 0 for i in range(3)]
        assert system.predict(["enak"], LABELS).tolist() == [expected]


def test_a_label_map_names_the_labels_of_a_model_or_of_the_file():
    assert name_labels("x", UNNAMED, NAMING) == name_labels("x", UNNAMED, f"{NAMING},campur=drop,3=neutral") == LABELS
    of_files = "positive=1,neutral=0,negative=-1", "positive=4|5,neutral=3,negative=1|2", "1=positive,0=negative,2=drop"
    for of_a_file in (NAMING, *of_files, "positive=a,neutral=drop,negative=b"):
        assert name_labels("x", LABELS, of_a_file) == LABELS
    for label_map in (None, "LABEL_0=positive,LABEL_1=neutral", "LABEL_0=a,LABEL_1=a,LABEL_2=b"):  # must be named
        with pytest.raises(UserError, match="say what each means, --label_map LABEL_0=...,LABEL_1=...,LABEL_2=...$"):
            name_labels("x", UNNAMED, label_map)


def test_systems_are_loaded_by_their_paths_and_named_by_what_tells_them_apart(tmp_path, monkeypatch):
    for name in ("keyword", "a/keyword", "mini-sentiment"):  # the last one as a bundled model
        (tmp_path / name).mkdir(parents=True)
        save_baseline(Keyword(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    systems = load_systems(["./mini-sentiment", "mini-sentiment"], backend="torch", precision="no")
    assert [system.kind for system in systems] == ["keyword", "model"]
    systems = load_systems(["keyword/", "a/keyword"], label_map="positive=baik,neutral=netral,negative=buruk")
    assert [system.name for system in systems] == ["keyword/", "a/keyword"]
    assert systems[0].predict(["kotor dan mahal"], ("buruk", "baik", "netral"))[0].argmax() == 0
    assert load_systems(["keyword/", "mini-sentiment"])[0].name == "keyword"
    with pytest.raises(UserError, match="keyword is a baseline: leave --model_revision out"):
        load_systems(["keyword"], "main")


def test_joined_models_are_one_system_that_has_seen_what_one_of_them_has(tmp_path):
    joined = "+".join(str(save_tiny(tmp_path / name)) for name in "ab")
    assert [system.name for system in load_systems([joined], backend="torch", precision="no")] == ["a+b"]
    (train := tmp_path / "train.csv").write_text("x")
    assert not was_trained_on(joined, train)
    write_json({"data": {"train": {"sha256": hash_file(train)}}}, tmp_path / "b" / "run.json")
    assert was_trained_on(joined, train)
