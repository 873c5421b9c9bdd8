"""Text files -> weighted sources -> rows: nothing is lost, nothing leaks into what is held out."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smsa.corpus import is_held_out, pack, read_sources, repeat
from smsa.data import read_rows
from smsa.rows import BadRowsError

CLS, SEP = 2, 3


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffsatu dua\r\n\n  tiga  \nempat".encode())
    (tmp_path / "b.txt").write_bytes(b"enak\nkotor \xff\nba\x00gus\n")
    (tmp_path / "empty.txt").write_bytes(b"\n \n")
    return tmp_path


def test_sources_are_lines_with_weights(corpus, smsa_dir):
    first, second = read_sources(["a.txt=0.5", "smsa=2"], corpus, smsa_dir)
    assert (first.name, first.weight, first.texts) == ("a.txt", 0.5, ["satu dua", "tiga", "empat"])
    assert (second.name, second.weight, len(second.texts)) == ("smsa", 2.0, 7)


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


def words_of(text: str) -> list[str]:
    """Lower-cased words, `nya` joined to the one before it: both styles give the same."""
    return re.findall(r"\w+", re.sub(r"(?<=\w) +nya\b", "nya", text.lower()))


def grams(texts, n: int = 8) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for words in map(words_of, texts) for i in range(len(words) - n + 1)}


def test_overlap_is_seen_through_case_punctuation_and_clitics():
    text = "Kemarin saya makan di sana, tempatnya bagus sekali dan murah."
    assert grams(["kemarin saya makan di sana , tempat nya bagus sekali dan murah"]) & grams([text])


def test_no_text_of_the_corpus_shares_eight_words_in_a_row_with_valid_or_test(smsa_files):
    if not os.environ.get("SMSA_CORPUS_DIR"):
        pytest.skip("needs the corpus: set SMSA_CORPUS_DIR to its folder")
    masked_test = Path(smsa_files["train"]).parent / "test_preprocess_masked_label.tsv"
    judged = grams(read_rows(smsa_files["valid"])[0]) | grams(read_rows(masked_test)[0])
    assert len(judged) > 20_000
    names = sorted(path.name for path in Path(os.environ["SMSA_CORPUS_DIR"]).glob("*.txt"))
    for source in read_sources(names, os.environ["SMSA_CORPUS_DIR"]):
        overlapping = [text for text in source.texts if grams([text]) & judged]
        assert not overlapping, (source.name, len(overlapping), overlapping[:3])
