"""The normaliser shortens drawn-out letters, changes nothing else, and lives in what every client loads."""

import json
from itertools import groupby

import pytest
from conftest import SAMPLE_DIR, VOCABULARY, make_model, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, pipeline

from scripts import score
from smsa.cli import parse
from smsa.data.normaliser import add_normaliser
from smsa.evaluation.arguments import EvaluationArguments
from smsa.evaluation.calibration import store_normaliser
from smsa.inference.arguments import EngineArguments
from smsa.inference.classifier import SentimentClassifier

VALID = SAMPLE_DIR / "valid_preprocess.tsv"
PLAIN = make_tokenizer()
NORMALISED = add_normaliser(PLAIN)


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer = make_tokenizer()
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run_score(*options) -> dict:
    return score.main(
        *parse(
            EvaluationArguments, EngineArguments, argv=[*map(str, options), "--backend", "torch", "--precision", "no"]
        )
    )


def shorten(text: str) -> str:
    """The same in plain Python."""
    runs = [(character, len(list(run))) for character, run in groupby(text.lower())]
    return "".join(character * (1 if n > 2 and character.isalpha() else n) for character, n in runs)


@given(st.text(st.sampled_from("aAbk1. "), max_size=30))
def test_runs_of_three_letters_or_more_become_one_and_nothing_else_changes(text):
    assert NORMALISED(text) == PLAIN(shorten(text))


def test_vowels_consonants_and_capitals_are_shortened_but_no_digits_dots_and_pairs():
    assert NORMALISED.tokenize("EnaaAAk maaf ...") == PLAIN.tokenize("enak maaf ...")
    assert NORMALISED.tokenize("murahhhhh") == ["murah"]


def test_score_puts_the_normaliser_where_every_client_finds_it(folder, tmp_path):
    plain = pipeline("text-classification", model=str(folder))
    report = run_score("--model", folder, "--data", VALID, "--output", tmp_path / "report", "--normalise")
    assert [system["name"] for system in report["systems"]] == ["model", "model (normalised)"]
    before, after = (system["robustness"] for system in report["systems"])
    assert before["as it is"] == after["as it is"] == after["drawn out"]
    assert "| model (normalised) |" in (tmp_path / "report" / "report.md").read_text()

    classify = pipeline("text-classification", model=str(folder))
    assert classify("enaaaak sekaliii") == classify("enak sekali") == plain("enak sekali")
    assert plain("enaaaak sekaliii") != plain("enak sekali")
    answer = SentimentClassifier.from_pretrained(str(folder), backend="torch", precision="no")("muraaaah")
    assert answer["score"] == pytest.approx(classify("murah")[0]["score"], abs=1e-6)
    # a name that transformers 4 knows, too, and that survives another save
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").tokenize("enaaaak") == ["enak"]

    with pytest.raises(SystemExit, match="has the normaliser already"):
        run_score("--model", folder, "--data", VALID, "--output", tmp_path / "again", "--normalise")
    assert not (tmp_path / "again").exists()


def test_all_that_a_tokenizer_says_of_itself_stays(folder):
    before = AutoTokenizer.from_pretrained(folder)
    store_normaliser(folder)
    after = AutoTokenizer.from_pretrained(folder)
    for name in ("model_max_length", "padding_side", "truncation_side", "model_input_names", "special_tokens_map"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.get_vocab() == before.get_vocab() and len(after) == len(VOCABULARY)
    texts = ["enak", "murah sekali dan bagus !", "kotor " * 100]
    options = {"padding": True, "truncation": True, "max_length": 20}
    assert after(texts, **options).data == before(texts, **options).data
    assert after("enak", "murah").data == before("enak", "murah").data
    assert (folder / "tokenizer.json").stat().st_mode == (folder / "config.json").stat().st_mode
    assert not (folder / ".staging").exists()


def test_a_tokenizer_of_2020_gets_one(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    store_normaliser(folder)
    assert AutoTokenizer.from_pretrained(folder).tokenize("enaaaak") == ["enak"]


@pytest.mark.parametrize("kind", ["byte-level BPE", "Unigram"])
def test_tokenizers_without_a_normaliser_of_their_own_get_one(kind):
    texts = ["enak murah bagus", "tempat nya bagus , murah !"] * 9
    if kind == "Unigram":  # as XLM-R's
        backend, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>")
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:  # as RoBERTa's
        backend, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(vocab_size=300)
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    backend.train_from_iterator(texts, trainer)
    plain = PreTrainedTokenizerFast(tokenizer_object=backend)
    normalised = add_normaliser(plain)
    assert normalised.tokenize("enaaaaak dan muraaah") == plain.tokenize("enak dan murah")
    assert plain.tokenize("enaaaaak") != plain.tokenize("enak")


def test_a_baseline_has_no_tokenizer_to_change(tmp_path):
    (tmp_path / "tfidf").mkdir()
    with pytest.raises(SystemExit, match="only a model folder with a model.safetensors can be changed"):
        run_score("--model", tmp_path / "tfidf", "--data", VALID, "--output", tmp_path / "report", "--normalise")
    assert not (tmp_path / "report").exists()
