"""Weights of words: they add up, they stand where the words stand, and taking away the heaviest words tells."""

import json
import random

import numpy as np
import pytest
from conftest import make_model
from scipy.special import logit
from tables import make_classifier
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import Sequence

from smsa import SentimentClassifier, predict_files
from smsa.data.datasets import load_splits
from smsa.errors import UserError
from smsa.inference.attribution import weigh_words
from smsa.inference.classifier import SentimentEnsemble
from smsa.models.loading import E5, FAST


@pytest.mark.parametrize("label, n_models", [(None, 1), ("negative", 1), (None, 2)])
def test_weights_add_up_and_words_are_parts_of_the_text(classifier, tokenizer, label, n_models):
    if n_models == 2:
        classifier = SentimentEnsemble([classifier, make_classifier(make_model(seed=1), tokenizer)])
    text = "Enak enak dan MURAH sekali, tidak kotor!"
    explained, answer = classifier.explain(text, label), classifier(text)
    assert explained["label"] == label or (label is None and explained["label"] == answer["label"])
    assert explained["log_odds"] == pytest.approx(logit(answer[f"p_{explained['label']}"]), abs=1e-4)
    total = sum(word["weight"] for word in explained["words"])
    assert explained["no_words"] + total == pytest.approx(explained["log_odds"], abs=1e-9)
    words = [word["word"] for word in explained["words"]]
    assert words == ["Enak", "enak", "dan", "MURAH", "sekali", ",", "tidak", "kotor", "!"]
    assert all(text[word["start"] : word["end"]] == word["word"] for word in explained["words"])
    assert classifier.explain(text, label) == explained  # the orders are the same each time


@pytest.mark.parametrize("name", [FAST, E5])
def test_a_word_that_the_tokenizer_reads_as_another_is_shown_as_it_stands(name):
    explained = SentimentClassifier.from_pretrained(name, device="cpu").explain(
        "Jakarta ramai: 15.000 rusak, kata Siti"
    )
    assert [word["word"].strip(":,") for word in explained["words"] if word["word"] not in ":,"] == [
        "Jakarta", "ramai", "15.000", "rusak", "kata", "Siti",
    ]  # fmt: skip


def test_weights_are_shapley_values():
    """One word alone has all that it moves; two that only work together have half each; others nothing."""
    seen = []

    def compute_log_odds(texts):  # 3 with a, and 1 with b as well as c
        seen.append(texts)
        return np.array([3.0 * ("a" in text) + 1.0 * ("b" in text and "c" in text) for text in texts])

    found = weigh_words(compute_log_odds, "(a b, c-d)", [(1, 2), (3, 4), (6, 7), (8, 9)])
    assert (found["log_odds"], found["no_words"]) == (4.0, 0.0)
    assert len(seen) == 1  # each run waits for other threads
    # words stay apart, and what stands between neighbours stays with both
    assert {"", " a b, c-d", " b, c-d", " d"} <= {*seen[0]} and {" a c-d", " a b d"} & {*seen[0]}
    assert [word["word"] for word in found["words"]] == ["a", "b", "c", "d"]
    # An order and its reverse share the last exactly
    assert [word["weight"] for word in found["words"]] == pytest.approx([3.0, 0.5, 0.5, 0.0], abs=1e-6)


def test_what_is_truncated_or_long_and_unread_stays_out(tiny_model, tokenizer):
    """Words that the model did not read may not come in when others leave, nor may much white space cost time."""
    tokenizer.truncation_side = "left"
    explain = make_classifier(tiny_model, tokenizer, max_length=5).explain
    read, of_long = explain("enak dan murah"), explain("kotor " * 20 + "enak dan murah")
    assert [word["weight"] for word in of_long["words"]] == pytest.approx([w["weight"] for w in read["words"]])
    inputs = []
    text, spans = f"a{' ' * 9999}b @c d", [(0, 1), (10_000, 10_001), (10_005, 10_006)]
    weigh_words(lambda texts: inputs.extend(texts) or np.zeros(len(texts)), text, spans)
    assert max(inputs, key=len) == "a b @c d"


def test_a_model_without_special_tokens_is_explained(tiny_model, tokenizer):
    tokenizer.backend_tokenizer.post_processor = Sequence([])
    for backend in ("torch", "openvino"):
        classifier = make_classifier(tiny_model, tokenizer, backend=backend, batch_tokens=1)
        assert classifier("")["empty"] and len(classifier.explain("enak dan murah")["words"]) == 3


def test_byte_level_tokens_become_words_without_the_space_before(tiny_model, tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = "makanannya enak, sekali"
    words = make_classifier(tiny_model, tokenizer).explain(text)["words"]
    assert [word["word"] for word in words] == ["makanannya", "enak", ",", "sekali"]
    assert all(text[word["start"] : word["end"]] == word["word"] for word in words)


def test_a_long_text_is_explained_as_far_as_it_was_read_and_an_empty_one_not(tiny_model, tokenizer):
    classifier = make_classifier(tiny_model, tokenizer, max_length=10)
    assert len(classifier.explain("enak " * 100)["words"]) == 8
    with pytest.raises(UserError, match="no word to explain"):
        classifier.explain("  ")
    with pytest.raises(UserError, match="label 'bagus' is not one of positive, neutral, negative"):
        classifier.explain("enak", "bagus")


@pytest.mark.slow
def test_weights_of_real_texts_add_up_and_the_heaviest_words_tell(smsa_files):
    """200 texts of valid that are found to be positive: without their three heaviest words they are less so, and more
    clearly than without any three. The 195 shortest, for the time grows with the square, and the five longest."""
    classifier = SentimentClassifier.from_pretrained(E5, device="cpu")
    splits = load_splits({"valid": smsa_files["valid"]})["valid"]
    texts = [row["text"] for row in splits if row["label"] == 0 and len(row["text"].split()) >= 8]
    texts = [text for text, answer in zip(texts, classifier(texts), strict=True) if answer["label"] == "positive"]
    texts.sort(key=lambda text: len(text.split()))
    texts = texts[:195] + texts[-5:]
    assert len(set(texts)) == 200

    def without(text: str, words: list[dict]) -> str:
        for word in sorted(words, key=lambda word: -word["start"]):
            text = text[: word["start"]] + text[word["end"] :]
        return text

    draw, n_told = random.Random(0), 0
    for text in texts:
        explained = classifier.explain(text)
        words = explained["words"]
        total = sum(word["weight"] for word in words)
        assert explained["no_words"] + total == pytest.approx(explained["log_odds"], abs=1e-9)
        heaviest = sorted(words, key=lambda word: -word["weight"])[:3]
        of_heaviest, of_any = classifier([without(text, heaviest), without(text, draw.sample(words, 3))])
        n_told += of_heaviest["p_positive"] < of_any["p_positive"]
    assert n_told / len(texts) >= 0.9


def test_predict_writes_what_explain_says(classifier, tmp_path):
    (tmp_path / "in.csv").write_text('text\n"enak, murah"\n" "\n"kotor sekali"\n"enak, murah"\n')
    predict_files(classifier, tmp_path / "in.csv", tmp_path / "out.jsonl", explain=True)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows[1]["words"] is None and rows[0]["words"] == rows[3]["words"]
    for row in (rows[0], rows[2]):
        words = classifier.explain(row["text"], row["label"])["words"]
        assert json.loads(row["words"]) == [
            [word["word"], word["start"], word["end"], round(word["weight"], 4)] for word in words
        ]
