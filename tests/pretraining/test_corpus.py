"""Text files -> weighted sources -> rows: nothing is lost, nothing leaks into what is held out."""

import json
import os

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from smsa.data.formats import BadRowsError
from smsa.models.bundled import FOLDER
from smsa.pretraining.corpus import (
    find_judged,
    grams,
    is_held_out,
    leave_out,
    overlaps,
    pack,
    read_sources,
    read_texts,
    repeat,
)

CLS, SEP = 2, 3


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffsatu dua\r\n\n  tiga  \nempat".encode())
    (tmp_path / "b.txt").write_bytes(b"enak\nkotor \xff\nba\x00gus\n")
    (tmp_path / "empty.txt").write_bytes(b"\n \n")
    (tmp_path / "labelled.csv").write_text("text,label\nenak,positive\n")
    return tmp_path


def test_sources_are_lines_with_weights(corpus, smsa_dir):
    first, second = read_sources(["a.txt=0.5", "smsa=2"], corpus, smsa_dir)
    assert (first.name, first.weight, first.texts) == ("a.txt", 0.5, ["satu dua", "tiga", "empat"])
    assert (second.name, second.weight, len(second.texts)) == ("smsa", 2.0, 7)


def test_of_a_tsv_the_last_field_is_left_out_where_there_is_one(tmp_path):
    (tmp_path / "a.tsv").write_text("enak\tsekali\tpositive\n\tneutral\nsatu teks saja\n")
    assert read_texts(tmp_path / "a.tsv") == ["enak\tsekali", "satu teks saja"]


def test_smsa_keeps_out_its_masked_test_too(smsa_dir):
    assert list(find_judged(["smsa"], data_dir=smsa_dir)) == ["SmSA's valid", "SmSA's test"]
    (smsa_dir / "test_preprocess_masked_label.tsv").write_text("enak\tneutral\n")
    files = find_judged(["smsa"], data_dir=smsa_dir)
    assert files["SmSA's masked test"].name == "test_preprocess_masked_label.tsv"


def test_bad_lines_are_named_and_stop_all(corpus):
    with pytest.raises(BadRowsError, match=r"b\.txt:2: the text is not valid UTF-8(.|\n)*b\.txt:3: .*NUL"):
        read_sources(["a.txt", "b.txt"], corpus)


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        (["a.txt=viel"], "'viel' is not a positive number"),
        (["a.txt=0"], "'0' is not a positive number"),
        (["a.txt=inf"], "'inf' is not a positive number"),
        (["a.txt", "a.txt=2"], "names a.txt twice"),
        (["empty.txt"], "holds no text"),
        (["none.txt"], "--corpus_dir"),
        (["labelled.csv"], "a .csv is not a text a line; write its texts into a .txt"),
    ],
)
def test_sources_that_make_no_sense_are_refused(corpus, specs, reason):
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        read_sources(specs, corpus)


@given(st.integers(1, 50), st.floats(0.05, 4))
def test_weights_count_how_often_a_text_is_seen(n_texts, weight):
    counts = np.bincount(repeat(n_texts, weight, seed=1), minlength=n_texts)
    assert counts.sum() == int(weight) * n_texts + round(weight % 1 * n_texts)
    assert set(counts) <= {int(weight), int(weight) + 1}


@given(st.lists(st.lists(st.integers(5, 99), max_size=30), max_size=20), st.integers(3, 16), st.integers(0, 3))
def test_rows_hold_every_text_whole_and_in_order_but_for_the_end(sequences, max_length, seed):
    n_pieces = sum(len(sequence) + 1 for sequence in sequences)
    if n_pieces < max_length - 1:
        with pytest.raises(ValueError, match="do not fill a row"):
            pack(sequences, max_length, CLS, SEP, seed)
        return
    rows = pack(sequences, max_length, CLS, SEP, seed)
    assert rows.shape == (n_pieces // (max_length - 1), max_length)
    assert (rows[:, 0] == CLS).all()
    flat = rows[:, 1:].ravel().tolist()
    texts = "".join("," if piece == SEP else f" {piece}" for piece in flat).split(",")
    spelled = sorted("".join(f" {piece}" for piece in sequence) for sequence in sequences)
    *whole, cut = texts
    for text in whole:
        spelled.remove(text)  # each text as often as it was given
    assert not cut or any(text.startswith(cut) for text in spelled)


def test_equal_texts_share_their_lot_and_the_share_is_kept():
    texts = [f"teks nomor {i}" for i in range(20_000)]
    held_out = [text for text in texts if is_held_out(text, 0.1)]
    assert 0.09 < len(held_out) / len(texts) < 0.11
    assert not [text for text in texts if is_held_out(text, 0.05) and not is_held_out(text, 0.1)]


def test_overlap_is_seen_through_case_punctuation_and_clitics():
    known = grams(["kemarin saya makan di sana , tempat nya bagus sekali dan murah", "tidak enak"])
    assert overlaps("Sungguh! Kemarin saya makan di sana, tempatnya bagus SEKALI.", known)
    assert overlaps("Tidak enak!", known) and not overlaps("tidak enak lagi", known)
    assert not overlaps("kemarin saya makan di sana", known)  # seven words at the most in a row


@pytest.mark.slow
def test_nothing_that_the_shipped_encoder_read_overlaps_with_valid_or_test(smsa_files):
    if not os.environ.get("SMSA_CORPUS_DIR"):
        pytest.skip("needs the corpus: set SMSA_CORPUS_DIR to its folder")
    recipe = yaml.safe_load((ROOT / "recipes" / "pretrain-mini.yaml").read_text())
    sources = read_sources(recipe["sources"])
    judged = [text for path in find_judged(recipe["keep_out"]).values() for text in read_texts(path)]
    assert len(judged) >= 1260 + 500
    n_texts = {source.name: len(source.texts) for source in sources}
    leave_out(sources, judged)
    left_out = {source.name: n_texts[source.name] - len(source.texts) for source in sources}
    assert left_out.pop("smsa") == 28  # train itself has texts of valid and test: docs/mini.md
    assert not any(left_out.values())
    run = json.loads((FOLDER / "mini" / "run.json").read_bytes())
    assert {source.name: source.sha256 for source in sources} == {k: v["sha256"] for k, v in run["data"].items()}
    assert {source.name: len(source.texts) for source in sources} == {k: v["n_texts"] for k, v in run["data"].items()}
