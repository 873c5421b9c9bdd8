"""What is learned from the training texts only: a vocabulary, equal for equal texts."""

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
