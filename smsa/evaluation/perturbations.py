"""SmSA's texts as people write them: with capitals, no space before punctuation and clitics, elongated letters, slang.

SmSA is in lower case, with punctuation and the clitic `nya` apart ("tempat nya bagus , murah !"). Each perturbation
undoes one of these, or adds what social media have; none changes what a text says.
"""

import json
import re
from pathlib import Path
from random import Random

# Formal word -> what people type instead.
SLANG = json.loads(Path(__file__).with_name("words").joinpath("slang.json").read_text(encoding="utf-8"))


def capitalise(text: str, random: Random) -> str:
    """Begin sentences with a capital; one text in ten is shouted."""
    if random.random() < 0.1:
        return text.upper()
    return re.sub(r"(^|[.!?]\s+)(\w)", lambda match: match[1] + match[2].upper(), text)


def remove_spaces(text: str, random: Random) -> str:
    """Leave no space before punctuation and the clitics nya, ku and mu."""
    text = re.sub(r"(\w) (nya|ku|mu)\b", r"\1\2", text)
    return re.sub(r"\s+(?=[,.!?;:)%])|(?<=[(])\s+", "", text)


def elongate(text: str, random: Random) -> str:
    """Repeat the last vowel of one word in twelve: enak, enaaak."""

    def lengthen(match: re.Match) -> str:
        return f"{match[1]}{match[2] * (random.randint(3, 5) if random.random() < 1 / 12 else 1)}{match[3]}"

    return re.sub(r"\b([^\W\d_]{2,}?)([aeiou])([^\W\d_aeiou]?)\b", lengthen, text)


def use_slang(text: str, random: Random) -> str:
    """Write half of the words in `SLANG` as people type them."""

    def replace(match: re.Match) -> str:
        return random.choice(SLANG.get(match[0].lower(), [match[0]])) if random.random() < 0.5 else match[0]

    return re.sub(rf"\b({'|'.join(SLANG)})\b", replace, text, flags=re.IGNORECASE)


PERTURBATIONS = {"capitals": capitalise, "no space": remove_spaces, "elongated": elongate, "slang": use_slang}


def perturb(texts: list[str], names: tuple[str, ...] = tuple(PERTURBATIONS), seed: int = 0) -> list[str]:
    """Rewrite texts with some of `PERTURBATIONS`, in the order of `names`.

    Each text has its own random generator, so a seed gives a text the same result whatever precedes it.
    """
    randoms = [Random(f"{seed} {number}") for number in range(len(texts))]
    for name in names:
        texts = [PERTURBATIONS[name](text, random) for text, random in zip(texts, randoms, strict=True)]
    return list(texts)


def is_smsa_style(text: str) -> bool:
    """Return whether a text is in lower case with its punctuation apart, as SmSA's texts are."""
    return text == text.lower() and not re.search(r"\w[,.!?]|[,.!?]\w", text)
