"""What is learned from the training texts only: a vocabulary, equal for equal texts, and nothing else."""

import sys

import pytest
import torch
from conftest import run
from transformers import AutoTokenizer, set_seed

from smsa.models.loading import load_model
from smsa.models.scratch import train_vocabulary


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process():
    """Without help, tokenizers learns another one each time: its hash maps are seeded at random in each process."""
    code = (
        "from smsa.data.datasets import find_smsa, read_rows; from smsa.models.scratch import train_vocabulary; "
        "print(sorted(train_vocabulary(read_rows(find_smsa('data/sample')['train'])[0], 2000).items()))"
    )
    (status, text), again = (run(sys.executable, "-c", code) for _ in range(2))
    assert again == (status, text) and status == 0 and len(text) > 10_000, text


def test_the_vocabulary_is_lower_case_within_its_size_and_spells_every_frequent_character():
    texts = ["Enak SEKALI", "enak sekali 👍", "tidak enak", "sekali lagi"] * 3
    vocabulary = train_vocabulary(texts, 80)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= 80
    assert {"enak", "sekali"} <= set(vocabulary)
    assert not any(token.lower() != token for token in vocabulary if not token.startswith("["))
    assert sorted(vocabulary, key=vocabulary.get)[:3] == ["[PAD]", "[UNK]", "[CLS]"]


def test_scratch_is_equal_for_equal_seeds_and_its_tokenizer_reloads(tmp_path):
    weights = []
    for seed in (3, 3, 4):
        set_seed(seed)
        model, tokenizer = load_model("scratch", train_texts=["makanan nya enak", "pelayanan nya lambat"] * 5)
        weights.append(model.get_input_embeddings().weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    tokenizer.save_pretrained(tmp_path)
    text = "Makanan enak, lambat 👍"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
