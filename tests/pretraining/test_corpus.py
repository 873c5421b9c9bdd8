"""Text files -> weighted sources -> rows: nothing is lost, nothing leaks from evaluation texts or held-out ones."""

import numpy as np
import pytest
import yaml
from conftest import ROOT, read_json
from tables import write_workbook
from transformers import BertTokenizer

from smsa.errors import UserError
from smsa.models.loading import FOLDER
from smsa.pretraining import corpus as module
from smsa.pretraining.corpus import CorpusSource, decontaminate, encode_sources, read_sources, read_texts

CLS, SEP, END = 2, 3, 5


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


def test_overlap_is_seen_through_case_punctuation_and_clitics():
    excluded = ["Sungguh! Kemarin saya makan di sana, tempatnya bagus SEKALI.", "Tidak enak!"]
    kept = ["tidak enak lagi", "kemarin saya makan di sana"]  # at most seven words in a row
    source = CorpusSource("a.txt", 1, "", excluded + kept)
    decontaminate([source], ["kemarin saya makan di sana , tempat nya bagus sekali dan murah", "tidak enak"])
    assert source.texts == kept


def test_texts_are_whole_in_rows_as_often_as_they_weigh_but_not_those_that_are_held_out():
    texts = [f"w{i} end" for i in range(300)]  # of two tokens each
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "end", *(text.split()[0] for text in texts)]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=64)
    sources = [CorpusSource("a.txt", 2.5, "", texts), CorpusSource("b.txt", 1, "", texts[:50])]
    encoded = encode_sources(sources, tokenizer, 5, 0.2, seed=1)
    counts = []
    for rows in encoded:
        assert rows.shape[1] == 5 and (rows[:, 0] == CLS).all()
        tokens = rows[:, 1:].ravel()
        whole = tokens[: len(tokens) // 3 * 3].reshape(-1, 3)
        assert (whole[:, 1:] == [END, SEP]).all()
        counts.append(np.bincount(whole[:, 0], minlength=len(vocabulary))[END + 1 :])
    held_out = np.array([module.is_held_out(text, 0.2) for text in texts])
    assert 40 < held_out.sum() == (counts[1] > 0).sum() and not counts[1][~held_out].any()
    more = counts[0] - np.where(held_out, 0, 2 + (np.arange(300) < 50))  # half of the texts are read once more
    assert set(more) <= {0, 1} and not more[held_out].any()
    assert abs(more.sum() - (~held_out).sum() / 2) <= 2  # the last tokens do not fill a row
    for share, found in ((1e-9, "held out: 0 texts, 0 rows"), (1 - 1e-9, "An epoch: 0 texts, 0 rows")):
        with pytest.raises(UserError, match=f"{found}.* more texts"):
            encode_sources(sources, tokenizer, 5, share, seed=1)


@pytest.mark.slow
def test_nothing_that_the_bundled_encoder_read_overlaps_with_what_the_models_are_measured_on(smsa_files, corpora):
    recipe = yaml.safe_load((ROOT / "recipes" / "pretrain-mini.yaml").read_text())
    kept_out = yaml.safe_load((ROOT / "data" / "mixture" / "recipe.yaml").read_text(encoding="utf-8"))["kept_out"]
    assert recipe["decontaminate"] == ["smsa", *(f"$SMSA_LABELLED_DIR/{name}" for name in kept_out)]
    sources = read_sources(recipe["sources"])
    excluded = read_sources(recipe["decontaminate"], to_exclude=True)
    assert sum(len(source.texts) for source in excluded) >= 7_750
    decontaminate(sources, [text for source in excluded for text in source.texts])
    phrases = module.find_overlaps(read_texts(ROOT / "tests" / "models" / "phrases.csv"))
    assert not any(phrases(text) for source in sources for text in source.texts)
    found = {s.name: {"weight": s.weight, "sha256": s.sha256, "n_texts": len(s.texts)} for s in sources}
    assert read_json(FOLDER / "mini" / "run.json")["data"] == found
