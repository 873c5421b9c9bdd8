"""Text files -> weighted sources -> rows: nothing is lost, nothing leaks from evaluation texts or held-out ones."""

import json

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import write_workbook
from transformers import BertTokenizer

from smsa.errors import UserError
from smsa.models.loading import FOLDER
from smsa.pretraining.corpus import (
    CorpusSource,
    decontaminate,
    encode_sources,
    find_overlaps,
    is_held_out,
    pack,
    read_sources,
    read_texts,
)

CLS, SEP = 2, 3


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffsatu dua\r\n\n  tiga  \nempat".encode())
    (tmp_path / "b.txt").write_bytes("enak\nkotor é\n".encode() + b"kotor \xff\nba\x00gus\n")
    (tmp_path / "empty.txt").write_bytes(b"\n \n")
    return tmp_path


def test_sources_have_weights_and_smsa_is_read_without_the_column_and_sheet_of_the_others(corpus, smsa_dir):
    (plain,) = read_sources(["a.txt=0.5"], corpus)
    assert (plain.name, plain.weight, plain.texts) == ("a.txt", 0.5, ["satu dua", "tiga", "empat"])
    assert [(source.name, source.weight) for source in read_sources(["a.t*=2"], corpus)] == [("a.txt", 2)]
    (corpus / "a.csv").write_text("id,Catatan,isi\n1,enak sekali,a\n2,  ,b\n3,murah,c\n")
    write_workbook(corpus / "a.xlsx", {"Data": [["Catatan"], ["kotor"]], "Lain": [["Catatan"], ["x y z"]]})
    (smsa_dir / "test_preprocess_masked_label.tsv").write_text("masked\tneutral\n")
    given = {"data_dir": smsa_dir, "text_column": "Catatan", "sheet": "Data"}
    sources = read_sources(["a.csv", "a.xlsx", "smsa=2"], corpus, **given)
    assert [source.texts for source in sources[:2]] == [["enak sekali", "murah"], ["kotor"]]
    assert (sources[2].name, sources[2].weight, len(sources[2].texts)) == ("smsa", 2.0, 7)
    excluded = read_sources(["smsa", "a.csv"], corpus, to_exclude=True, **given)
    assert [source.name for source in excluded] == ["SmSA's valid", "SmSA's test", "SmSA's masked test", "a.csv"]
    assert excluded[2].texts == ["masked"]


REFUSED = {
    "a.txt=viel": "'viel' is not a positive number",
    "a.txt a.t*=2": "names a.txt twice",
    "empty.txt": "has no text",
    "b.txt": r"b\.txt:3: .*UTF-8(.|\n)*b\.txt:4: the text holds a NUL",
    "none.txt": "--corpus_dir",
}


@pytest.mark.parametrize("specs, reason", REFUSED.items())
def test_sources_that_make_no_sense_are_refused(corpus, specs, reason):
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        read_sources(specs.split(), corpus)


def test_later_rows_of_json_may_have_other_keys(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 1_200 + '{"text": "b", "geo": null}\n')
    assert read_texts(tmp_path / "a.jsonl") == ["a"] * 1_200 + ["b"]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(5, 99), max_size=30), max_size=20), st.integers(3, 16), st.integers(0, 3))
def test_rows_hold_every_text_whole_and_in_order_but_for_the_end(sequences, max_length, seed):
    n_tokens = sum(len(sequence) + 1 for sequence in sequences)
    rows = pack(sequences, max_length, CLS, SEP, seed)
    assert rows.shape == (n_tokens // (max_length - 1), max_length)
    assert (rows[:, 0] == CLS).all()
    *whole, cut = "".join(map(chr, rows[:, 1:].ravel())).split(chr(SEP))
    left = ["".join(map(chr, sequence)) for sequence in sequences]
    for text in whole:
        left.remove(text)  # each text as often as it was given
    assert not cut or any(text.startswith(cut) for text in left)


def test_overlap_is_seen_through_case_punctuation_and_clitics():
    excluded = ["Sungguh! Kemarin saya makan di sana, tempatnya bagus SEKALI.", "Tidak enak!"]
    kept = ["tidak enak lagi", "kemarin saya makan di sana"]  # at most seven words in a row
    source = CorpusSource("a.txt", 1, "", excluded + kept)
    decontaminate([source], ["kemarin saya makan di sana , tempat nya bagus sekali dan murah", "tidak enak"])
    assert source.texts == kept


def test_no_held_out_text_is_trained_on_and_all_others_as_often_as_they_weigh():
    words = [f"w{i}" for i in range(300)]  # each a text and a token
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=64)
    sources = [CorpusSource("a.txt", 2.5, "", words), CorpusSource("b.txt", 1, "", words[:50])]
    rows, held_out_rows = encode_sources(sources, tokenizer, 4, 0.2, seed=1)
    held_out = {tokenizer.convert_tokens_to_ids(word) for word in words if is_held_out(word, 0.2)}
    assert len(held_out) > 40 and held_out == set(held_out_rows.ravel()) - {CLS, SEP}
    counts = np.bincount(rows.ravel(), minlength=len(vocabulary))[5:]
    expected = np.array([0 if i + 5 in held_out else 3 if i < 50 else 2 for i in range(300)])
    more = (counts - expected)[expected > 0]  # of half the texts; the last tokens do not fill a row
    assert set(more) <= {0, 1} and abs(more.sum() - len(more) / 2) <= 3 and not counts[expected == 0].any()
    for share, found in ((1e-9, "held out: 0 texts, 0 rows"), (1 - 1e-9, "An epoch: 0 texts, 0 rows")):
        with pytest.raises(UserError, match=f"{found}.* more texts"):
            encode_sources(sources, tokenizer, 4, share, seed=1)


@pytest.mark.slow
def test_nothing_that_the_bundled_encoder_read_overlaps_with_what_the_models_are_measured_on(smsa_files, corpora):
    recipe = yaml.safe_load((ROOT / "recipes" / "pretrain-mini.yaml").read_text())
    kept_out = yaml.safe_load((ROOT / "data" / "mixture" / "recipe.yaml").read_text(encoding="utf-8"))["kept_out"]
    assert recipe["decontaminate"] == ["smsa", *(f"$SMSA_LABELLED_DIR/{name}" for name in kept_out)]
    sources = read_sources(recipe["sources"])
    excluded = read_sources(recipe["decontaminate"], to_exclude=True)
    assert sum(len(source.texts) for source in excluded) >= 7_750
    decontaminate(sources, [text for source in excluded for text in source.texts])
    phrases = find_overlaps(read_texts(ROOT / "tests" / "models" / "phrases.csv"))
    assert not any(phrases(text) for source in sources for text in source.texts)
    found = {s.name: {"weight": s.weight, "sha256": s.sha256, "n_texts": len(s.texts)} for s in sources}
    assert json.loads((FOLDER / "mini" / "run.json").read_bytes())["data"] == found
