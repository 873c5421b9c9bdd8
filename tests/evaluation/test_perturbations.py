"""Each perturbation does what it says and nothing else, and is the same for the same seed."""

import re
from random import Random

from smsa.evaluation import perturbations

TEXT = "tempat nya dan buku ku nyaman , murah ! tapi saya tidak suka muka mu ( terlalu ramai ) ."


def test_no_space_is_left_before_punctuation_and_clitics_and_sentences_begin_with_capitals_or_are_shouted():
    expected = "tempatnya dan bukuku nyaman, murah! tapi saya tidak suka mukamu (terlalu ramai)."
    assert perturbations.remove_spaces(TEXT, Random(0)) == expected
    perturbed = {perturbations.capitalise("enak . murah ! ramah", Random(seed)) for seed in range(100)}
    assert perturbed == {"Enak . Murah ! Ramah", "ENAK . MURAH ! RAMAH"}


def test_letters_are_elongated_in_some_words_only():
    words = "makanan minuman pelayanan kebersihan suasana".split()
    found = [perturbations.elongate(" ".join(words), Random(seed)) for seed in range(200)]
    changed = [word for text in found for word, before in zip(text.split(), words, strict=True) if word != before]
    assert 0.04 < len(changed) / 1000 < 0.14
    for word in changed:
        assert re.search(r"([aeiou])\1{2,4}", word) and re.sub(r"([aeiou])\1+", r"\1", word) in words


def test_slang_stands_for_half_of_the_words_it_knows_and_equal_seeds_give_equal_texts_whatever_stands_before():
    found = " ".join(perturbations.use_slang("tidak", Random(seed)) for seed in range(400)).split()
    assert set(found) == {"tidak", *perturbations.SLANG["tidak"]}
    assert 150 < found.count("tidak") < 250
    assert perturbations.use_slang("tidakkah ketidakadilan", Random(1)) == "tidakkah ketidakadilan"  # whole words only
    texts, perturb = [TEXT, "enak dan murah", TEXT], perturbations.perturb
    assert perturb(texts, seed=1) == perturb(texts, seed=1) != perturb(texts, seed=2)
    assert perturb(texts)[:2] == perturb(texts[:2])
