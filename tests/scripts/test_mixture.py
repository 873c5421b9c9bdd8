"""The mixture has what its recipe says, and nothing of what the models are evaluated on."""

import csv
import json
from random import Random

import pytest
from conftest import ROOT

from scripts.mixture import main, make_phrases, mistype
from smsa.errors import UserError

SEEN = "satu dua tiga empat lima enam tujuh delapan"
SHOP = f'text,sentiment\nbarang bagus,positive\n"{SEEN}, sembilan",positive\n{{more}}\nbarang rusak,negative\n'
NEWS = "rapat dimulai pukul sembilan\nrapat itu tidak jadi\nrapat\n"
RECIPE = """
seed: 1
kept_out: [kept.csv]
calibration: 0.1
slang: 0.1
sources:
  shop.csv: {folder: labelled, licence: MIT}
  news.txt: {folder: corpus, licence: MIT, words: [2, 9], refused: tidak}
"""


def test_texts_that_are_evaluated_on_are_excluded_and_all_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("SMSA_DATA_DIR", str(ROOT / "data" / "sample"))
    monkeypatch.setenv("SMSA_CORPUS_DIR", str(tmp_path))
    more = "\n".join(f"barang nomor {i},positive" for i in range(20))
    (tmp_path / "shop.csv").write_text(SHOP.format(more=more) + "barang nomor 3,positive\n" * 9)  # the same once more
    (tmp_path / "kept.csv").write_text(f"text,sentiment\nnol {SEEN},negative\n")
    (tmp_path / "news.txt").write_text(NEWS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    main(tmp_path / "recipe.yaml", tmp_path, tmp_path / "mixture")
    with pytest.raises(UserError, match="not empty .*: choose another --output"):
        main(tmp_path / "recipe.yaml", tmp_path, tmp_path / "mixture")
    rows = {}
    for split in ("train", "calibration"):
        with (tmp_path / "mixture" / f"{split}.csv").open(newline="") as stream:
            rows[split] = [(row["text"], row["label"]) for row in csv.DictReader(stream)]
    assert len({*rows["train"], *rows["calibration"]}) == 23 and rows["calibration"]
    assert not {text for text, _ in rows["train"]} & {text for text, _ in rows["calibration"]}
    everything = rows["train"] + rows["calibration"]
    assert {label for text, label in everything if text.startswith("rapat")} == {"neutral"}
    assert ("barang rusak", "negative") in everything and not any(SEEN in text for text, _ in everything)
    record = json.loads((tmp_path / "mixture" / "mixture.json").read_bytes())
    assert record["sources"]["shop.csv"]["n_excluded"] == 1 and record["n_overlapping"] == 0
    assert record["sources"]["news.txt"]["n_texts"] == {"positive": 0, "neutral": 1, "negative": 0}


def test_equal_seeds_make_equal_phrases_without_open_slots():
    path = ROOT / "data" / "mixture" / "phrases.yaml"
    phrases = make_phrases(path, 300, Random(1))
    assert phrases == make_phrases(path, 300, Random(1))
    assert len({text for text, _ in phrases}) == 300 and not any("{" in text for text, _ in phrases)


def test_a_typing_error_leaves_the_first_letter_and_the_number_of_words():
    text = "pelayanan di sini lambat sekali"
    for seed in range(50):
        words = mistype(text, Random(seed)).split()
        assert [word[0] for word in words] == [word[0] for word in text.split()]
