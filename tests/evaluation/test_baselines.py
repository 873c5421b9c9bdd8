"""What each baseline computes, that it comes back from its folder, and what it gives on the real SmSA."""

import json

import numpy as np
import pytest
from conftest import SAMPLE_DIR

from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import LABELS
from smsa.errors import UserError
from smsa.evaluation.baselines import (
    BASELINES,
    Keyword,
    Majority,
    Tfidf,
    _make_vectorizers,
    load_baseline,
    save_baseline,
)
from smsa.evaluation.report import OPENING_SENTENCES
from smsa.training.metrics import score_label_ids


@pytest.fixture(scope="module")
def sample() -> dict[str, tuple[list[str], list[int]]]:
    return {split: read_rows(path)[:2] for split, path in find_smsa(SAMPLE_DIR).items()}


def label_of(system, text: str) -> str:
    return system.labels[system.predict([text])[0].argmax()]


@pytest.mark.parametrize("kind", BASELINES)
def test_it_comes_back_from_its_folder_with_the_same_probabilities(tmp_path, sample, kind):
    system = BASELINES[kind].fit(*sample["train"])
    save_baseline(system, tmp_path)
    loaded = load_baseline(tmp_path)
    texts = [*sample["valid"][0], "", "tidak ada kata yang dikenal xyzzy", "👍 \u2028"]
    expected = system.predict(texts)
    assert expected.shape == (len(texts), 3)
    assert expected.sum(-1) == pytest.approx(np.ones(len(texts)))
    assert np.array_equal(loaded.predict(texts), expected)
    assert loaded.labels == LABELS and loaded.kind == kind
    assert not any(path.suffix in (".pkl", ".joblib", ".bin") for path in tmp_path.iterdir())


def test_majority_is_the_most_frequent_label_with_the_shares_of_train():
    system = Majority.fit(["a", "b", "c", "d"], [2, 2, 0, 2])
    assert system.predict(["x", "y"]).tolist() == [[0.25, 0.0, 0.75]] * 2


COUNTS = {
    "": (0, 0),
    "budi pergi ke pasar": (0, 0),
    "makanannya enak": (1, 0),
    "Enak, murah, dan pelayanannya ramah!": (3, 0),
    "tidak enak": (0, 1),
    "tidak terlalu enak": (0, 1),
    "tidak pernah merasa enak": (1, 0),  # three words after the negation
    "gak kecewa": (1, 0),
    "kurang ajar": (0, 1),
    "pelayanannya kurang": (0, 1),
    "dasar sialan, penipu!!": (0, 3),
    "enak tapi mahal": (1, 1),
    "sia-sia saja": (0, 1),
}


@pytest.mark.parametrize("text, counts", COUNTS.items(), ids=COUNTS)
def test_keyword_counts_words_and_turns_them_round_after_a_negation(text, counts):
    assert Keyword().count(text) == counts


def test_keyword_gives_the_label_with_more_words_and_neutral_for_a_tie():
    system = Keyword()
    assert [label_of(system, text) for text in ("enak dan murah", "enak tapi mahal", "kotor dan mahal", "")] == [
        "positive",
        "neutral",
        "negative",
        "neutral",
    ]
    surer = [system.predict([text]).max() for text in ("enak", "enak murah", "enak murah ramah")]
    assert surer == sorted(surer)
    reordered = Keyword(("negative", "positive", "neutral"))
    assert reordered.predict(["kotor"])[0].argmax() == 0
    with pytest.raises(ValueError, match="knows the labels positive, neutral, negative, not a, b"):
        Keyword(("a", "b"))


def test_keyword_is_fooled_as_the_tutorial_says():
    """Winning words weigh as much as the disappointment at the end."""
    assert label_of(Keyword(), OPENING_SENTENCES[0]) == "positive"
    assert label_of(Keyword(), OPENING_SENTENCES[1]) == "neutral"


def test_tfidf_learns_and_is_the_model_of_scikit_learn(sample):
    from scipy.sparse import hstack
    from sklearn.linear_model import LogisticRegression

    texts, label_ids = sample["train"]
    system = Tfidf.fit(texts, label_ids)
    vectorizers = _make_vectorizers()
    features = hstack([vectorizer.fit_transform(texts) for vectorizer in vectorizers])
    model = LogisticRegression(C=Tfidf.C, class_weight="balanced", max_iter=1000).fit(features, label_ids)
    valid = hstack([vectorizer.transform(sample["valid"][0]) for vectorizer in vectorizers])
    assert system.predict(sample["valid"][0]) == pytest.approx(model.predict_proba(valid), abs=1e-5)
    assert np.mean(system.predict(texts).argmax(-1) == label_ids) > 0.95


def test_tfidf_of_two_labels_and_of_a_label_without_texts(sample):
    texts, label_ids = sample["train"]
    pairs = [(text, label_id // 2) for text, label_id in zip(texts, label_ids, strict=True) if label_id != 1]
    system = Tfidf.fit([text for text, _ in pairs], [label_id for _, label_id in pairs], ("positive", "negative"))
    assert np.mean(system.predict([text for text, _ in pairs]).argmax(-1) == [label_id for _, label_id in pairs]) > 0.95
    with pytest.raises(ValueError, match="at least one training text of each label"):
        Tfidf.fit(["a b", "b c"], [0, 1])


def test_a_damaged_baseline_is_refused_by_name(sample, tmp_path):
    save_baseline(Tfidf.fit(*sample["train"]), tmp_path)
    weights = (tmp_path / "baseline.safetensors").read_bytes()
    (tmp_path / "baseline.safetensors").write_bytes(weights[:100])
    with pytest.raises(ValueError, match=f"{tmp_path} is damaged, or no baseline"):
        load_baseline(tmp_path)
    (tmp_path / "baseline.safetensors").write_bytes(weights)
    description = json.loads((tmp_path / "baseline.json").read_text())
    for damaged in (
        *("", "[]", '{"kind": "oracle"}', '{"kind": "majority"}'),
        '{"kind": "majority", "labels": ["a", "b"], "shares": [1]}',
        json.dumps(description | {"vocabularies": [["a"], ["b"]]}),
        json.dumps(description | {"labels": ["a", "b"]}),
    ):
        (tmp_path / "baseline.json").write_text(damaged)
        with pytest.raises(UserError, match=f"{tmp_path} is damaged"):
            load_baseline(tmp_path)


@pytest.mark.slow
def test_on_the_real_smsa(smsa_files, tmp_path):
    train, valid = (read_rows(smsa_files[split])[:2] for split in ("train", "valid"))
    found = {}
    for kind, baseline in BASELINES.items():
        probabilities = baseline.fit(*train).predict(valid[0])
        found[kind] = score_label_ids(probabilities.argmax(-1), valid[1])["f1"]
    print(json.dumps(found))
    assert found["tfidf"] >= 0.86
    assert 0.6 < found["keyword"] < found["tfidf"]
    assert found["majority"] == pytest.approx(0.2456, abs=1e-4)
