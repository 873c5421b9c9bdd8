"""What each baseline computes, that it comes back from its folder, and what it gives on the real SmSA."""

import numpy as np
import pytest
from conftest import SAMPLE_DIR
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from smsa import LABELS, find_smsa, read_rows
from smsa.errors import UserError
from smsa.evaluation import baselines
from smsa.evaluation.baselines import BASELINES, Keyword, Majority, Tfidf, load_baseline, save_baseline


@pytest.fixture(scope="module")
def sample() -> dict[str, tuple[list[str], list[int]]]:
    return {split: read_rows(path)[:2] for split, path in find_smsa(SAMPLE_DIR).items()}


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
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_majority_is_the_most_frequent_label_with_the_shares_of_train():
    system = Majority.fit(["a", "b", "c", "d"], [2, 2, 0, 2])
    assert system.predict(["x", "y"]).tolist() == [[0.25, 0.0, 0.75]] * 2


def test_keyword_counts_words_turns_them_round_after_a_negation_and_gives_the_label_with_more_of_them():
    assert Keyword().count("Enak, murah, dan pelayanannya ramah!") == (3, 0)
    for text in ("tidak pernah merasa enak", "gak kecewa"):  # of three words only two are turned
        assert Keyword().count(text) == (1, 0)
    for text in ("tidak terlalu enak", "pelayanannya kurang", "sia-sia saja"):
        assert Keyword().count(text) == (0, 1)
    texts = ["enak dan murah", "enak tapi mahal", "kotor dan mahal", ""]
    for labels in (LABELS, LABELS[::-1]):
        predicted = [labels[i] for i in Keyword(labels).predict(texts).argmax(-1)]
        assert predicted == ["positive", "neutral", "negative", "neutral"]
    surer = Keyword().predict(["enak", "enak murah", "enak murah ramah"])[:, 0]
    assert (np.diff(surer) > 0).all()


@pytest.mark.parametrize("labels, used", [(LABELS, [0, 1, 2]), (LABELS[:2], [0, 1]), (LABELS, [0, 2])])
def test_tfidf_is_the_model_of_scikit_learn_and_0_for_a_label_without_texts(sample, labels, used, tmp_path):
    texts, label_ids = zip(*(row for row in zip(*sample["train"], strict=True) if row[1] in used), strict=True)
    save_baseline(Tfidf.fit(texts, list(label_ids), labels), tmp_path)
    regression, valid = LogisticRegression(C=30.0, class_weight="balanced", max_iter=1000), sample["valid"][0]
    model = make_pipeline(baselines._make_vectorizer(), regression).fit(texts, label_ids)
    expected = np.zeros((len(valid), len(labels)))
    expected[:, used] = model.predict_proba(valid)
    assert load_baseline(tmp_path).predict(valid) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n_texts", [2, 200])
def test_tfidf_learns_from_texts_that_share_no_word_but_not_from_texts_without_words(n_texts):
    texts, label_ids = [f"kata{i}" for i in range(n_texts)], [i % 2 for i in range(n_texts)]
    assert Tfidf.fit(texts, label_ids).predict(texts).argmax(-1).tolist() == label_ids
    with pytest.raises(UserError, match="no text has a word"):
        Tfidf.fit(["👍"] * n_texts, label_ids)


@pytest.mark.parametrize("name", ["baseline.json", "baseline.safetensors"])
def test_a_damaged_baseline_is_named(tmp_path, sample, name):
    save_baseline(Tfidf.fit(*sample["train"]), tmp_path)
    for content in (b"{}", b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"the baseline in {tmp_path} is damaged"):
            load_baseline(tmp_path)
