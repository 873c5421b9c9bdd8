"""The mixture has what its recipe says, and nothing of what the models are evaluated on."""

from random import Random

import pandas as pd
import pytest
import yaml
from conftest import ROOT, read_json

from scripts import mixture
from scripts.mixture import insert, main
from smsa.errors import UserError
from smsa.models.loading import E5, FAST, FOLDER

SEEN = "satu dua tiga empat lima enam tujuh delapan"
SHOP = f'text,sentiment\nbarang bagus,positive\n"{SEEN}, sembilan",positive\nbarang rusak,negative\n'
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
    more = "".join(f"barang nomor {i},positive\n" for i in [*range(20), *[3] * 9])  # one of them ten times
    (tmp_path / "shop.csv").write_text(SHOP + more)
    (tmp_path / "kept.csv").write_text(f"text,sentiment\nnol {SEEN},negative\n")
    (tmp_path / "news.txt").write_text(NEWS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    main(tmp_path / "recipe.yaml", tmp_path, tmp_path / "mixture")
    with pytest.raises(UserError, match="not empty .*: choose another --output"):
        main(tmp_path / "recipe.yaml", tmp_path, tmp_path / "mixture")
    tables = [pd.read_csv(tmp_path / "mixture" / f"{split}.csv") for split in ("train", "calibration")]
    train, calibration = (dict(zip(table["text"], table["label"], strict=True)) for table in tables)
    inserted = pd.read_csv(tmp_path / "mixture" / "inserted.csv")
    assert inserted["label"].tolist() == tables[0]["label"].tolist()
    pairs = list(zip(tables[0]["text"], inserted["text"], strict=True))
    assert all(text in longer for text, longer in pairs) and 4 <= sum(text != longer for text, longer in pairs) <= 18
    everything = train | calibration
    assert calibration and not train.keys() & calibration.keys() and len(everything) == 23
    assert {label for text, label in everything.items() if text.startswith("rapat")} == {"neutral"}
    assert everything["barang rusak"] == "negative" and not any(SEEN in text for text in everything)
    record = read_json(tmp_path / "mixture" / "mixture.json")
    assert record["sources"]["shop.csv"]["n_excluded"] == 1 and record["n_overlapping"] == 0
    assert record["sources"]["news.txt"]["n_texts"] == {"positive": 0, "neutral": 1, "negative": 0}


def test_insertions_are_listed_or_made_up_names_and_places_or_numbers_and_count_as_texts_that_are_seen(
    tmp_path, monkeypatch
):
    files = (ROOT / "data" / "mixture" / f"{name}.yaml" for name in ("insertions", "names"))
    insertions, names = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)
    listed = {kind: set(names[f"{kind}s"].split()) for kind in ("name", "place")}
    assert all("{0}" in form and "{1}" in form for kind in ("name", "place", "number") for form in insertions[kind])
    words = names | insertions | {kind: [kind + ": {0}|{1}"] for kind in ("name", "place", "number")}
    made = [insert("enak", words, Random(seed)) for seed in range(300)]
    assert made == [insert("enak", words, Random(seed)) for seed in range(300)]
    found = [text.removesuffix("|enak").split(": ") for text in made]
    for kind, known in listed.items():
        added = {word for name, word in found if name == kind}
        assert added & known and added - known and all(len(word) > 2 and word.isalpha() for word in added - known)
    assert {len(word) for name, word in found if name == "number" and word.isdecimal()} >= {1, 2, 3, 4, 5}

    monkeypatch.setenv("SMSA_DATA_DIR", str(ROOT / "data" / "sample"))
    monkeypatch.setattr(mixture, "insert", lambda *_: SEEN)
    (tmp_path / "shop.csv").write_text(SHOP + "".join(f"barang nomor {i},positive\n" for i in range(20)))
    (tmp_path / "kept.csv").write_text(f"text,sentiment\nnol {SEEN},negative\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE[: RECIPE.index("  news")])
    main(tmp_path / "recipe.yaml", tmp_path, tmp_path / "mixture")
    inserted = pd.read_csv(tmp_path / "mixture" / "inserted.csv")["text"]
    assert read_json(tmp_path / "mixture" / "mixture.json")["n_overlapping"] == sum(inserted == SEEN) > 0


@pytest.mark.slow
def test_the_mixture_of_the_bundled_models_is_made_again_to_the_byte(smsa_files, corpora, tmp_path):
    main(ROOT / "data" / "mixture" / "recipe.yaml", corpora, tmp_path / "mixture")
    made, *bundled = (folder / "mixture.json" for folder in (tmp_path / "mixture", FOLDER / FAST, FOLDER / E5))
    assert [path.read_bytes() for path in bundled] == [made.read_bytes()] * 2
