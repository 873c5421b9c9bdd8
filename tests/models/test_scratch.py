"""What is learned from the training texts only: a vocabulary, equal for equal texts, and nothing else."""

import torch
from transformers import AutoTokenizer, set_seed

from smsa.models.loading import load_model
from smsa.models.scratch import train_vocabulary


def test_the_vocabulary_is_lower_case_within_its_size_and_spells_every_frequent_character():
    texts = ["Enak SEKALI", "enak sekali 👍", "tidak enak", "sekali lagi"] * 3
    vocabulary = train_vocabulary(texts, 80)
    # of itself tokenizers learns another one most times
    assert all(vocabulary == train_vocabulary(texts, 80) for _ in range(8))
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
