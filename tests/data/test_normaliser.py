"""The normaliser shortens elongated letters and changes nothing else."""

from itertools import groupby

import pytest
from conftest import make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smsa.data.normaliser import add_normaliser, write_plainly
from smsa.errors import UserError

PLAIN = make_tokenizer()
NORMALISED = add_normaliser(PLAIN)


def shorten(text: str) -> str:
    """The same in plain Python."""
    runs = [(character, len(list(run))) for character, run in groupby(text.lower())]
    return "".join(character * (1 if n > 2 and character.isalpha() else n) for character, n in runs)


@given(st.text(st.sampled_from("aAbk1. "), max_size=30))
def test_runs_of_three_letters_or_more_become_one_and_nothing_else_changes(text):
    assert NORMALISED(text) == PLAIN(shorten(text))


@pytest.mark.parametrize("model, trainer, splitter", [
    (models.Unigram(), trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>"), pre_tokenizers.Metaspace()),
    (models.BPE(), trainers.BpeTrainer(vocab_size=300), pre_tokenizers.ByteLevel()),
], ids=["XLM-R", "RoBERTa"])  # fmt: skip
def test_tokenizers_without_a_normaliser_of_their_own_get_one_and_no_second(model, trainer, splitter):
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitter
    backend.train_from_iterator(["enak murah bagus", "tempat nya bagus , murah !"] * 9, trainer)
    plain = PreTrainedTokenizerFast(tokenizer_object=backend)
    normalised = add_normaliser(plain)
    assert normalised.tokenize("enaaaaak dan muraaah") == plain.tokenize("enak dan murah")
    assert plain.tokenize("enaaaaak") != plain.tokenize("enak")
    with pytest.raises(UserError, match="has the normaliser already: leave --normalise_elongated out"):
        add_normaliser(normalised)


def test_html_and_what_nobody_sees_are_left_out_but_not_what_only_looks_like_it():
    plainly, unseen = normalizers.Sequence(write_plainly()), "\u200b\u00ad\ufeff\u200e\u2060"
    for written, text in (
        (f"{unseen}enak se{unseen}kali{unseen}", "enak sekali"),
        ("<b>enak</b> sekali<br><br/>&quot;itu&quot; &amp; tempe??", "enak sekali itu tempe"),
        ('<a href="https://youtu.be/a?t=1&amp;b=2">1:00</a> jum&#39;at<br\n>i &lt;3 u', "1:00 jum'at i <3 u"),
        ("a<b dan b>c & d; x <3 <bagus> r&b; <i = 3>", "a<b dan b>c & d; x <3 <bagus> r&b; <i = 3>"),
        ("https://youtu.be/x</a><br>www.toko.com<br>jelek", "jelek"),
        ("<a " + "=" * 10**5, "<a ="),  # a pattern that retried would panic, or take minutes
        ("a" + " " * 10**5 + "b", "a b"),
    ):
        assert plainly.normalize_str(written) == text
