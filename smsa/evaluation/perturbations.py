"""SmSA's texts as people write them: with capitals, punctuation and clitics attached, drawn-out letters, common slang.

SmSA is in lower case, with punctuation and the clitic `nya` apart ("tempat nya bagus , murah !"). Each rewriting undoes
one of these, or adds what social media have; none changes what a text says.
"""

import re
from collections.abc import Callable
from random import Random

# Formal word -> what people type instead; the first is the most common.
SLANG = {
    "tidak": ("gak", "ga", "nggak", "tdk", "enggak"),
    "yang": ("yg",),
    "dan": ("dn", "n"),
    "dengan": ("dgn", "sama"),
    "untuk": ("utk", "buat"),
    "karena": ("krn", "karna", "soalnya"),
    "tapi": ("tp", "tpi"),
    "sudah": ("udah", "sdh", "dah"),
    "belum": ("blm", "belom"),
    "juga": ("jg", "jga"),
    "saja": ("aja", "aj"),
    "sangat": ("sgt",),
    "banget": ("bgt", "bangett"),
    "saya": ("gue", "sy", "aku"),
    "kamu": ("km", "lu"),
    "bagus": ("bgs", "bagusss"),
    "orang": ("org",),
    "tempat": ("tmpt",),
    "dari": ("dr", "dri"),
    "sampai": ("sampe", "smp"),
    "kalau": ("kalo", "klo", "kl"),
    "seperti": ("kayak", "kyk", "sprt"),
    "bisa": ("bs", "bsa"),
    "harus": ("hrs", "kudu"),
    "lagi": ("lg", "lgi"),
    "memang": ("emang", "mmg"),
    "hanya": ("cuma", "cuman", "hny"),
    "mau": ("mo", "pengen"),
    "terima kasih": ("makasih", "makasi", "thx"),
    "begitu": ("gitu", "gt"),
    "bagaimana": ("gimana", "gmn"),
    "kenapa": ("knp", "napa"),
}
_SLANG_WORDS = re.compile(rf"\b({'|'.join(sorted(map(re.escape, SLANG), key=len, reverse=True))})\b", re.IGNORECASE)


def capitalise(text: str, random: Random) -> str:
    """Begin sentences with a capital; one text in ten is shouted."""
    if random.random() < 0.1:
        return text.upper()
    return re.sub(r"(^|[.!?]\s+)(\w)", lambda match: match[1] + match[2].upper(), text)


def attach(text: str, random: Random) -> str:
    """Attach punctuation to the word before it, and the clitics nya, ku and mu."""
    text = re.sub(r"(\w) (nya|ku|mu)\b", r"\1\2", text)
    text = re.sub(r"\s+([,.!?;:)%])", r"\1", text)
    return re.sub(r"([(])\s+", r"\1", text)


def draw_out(text: str, random: Random) -> str:
    """Repeat the last vowel of one word in twelve: enak, enaaak."""

    def lengthen(match: re.Match) -> str:
        if random.random() >= 1 / 12:
            return match[0]
        return f"{match[1]}{match[2] * random.randint(3, 5)}{match[3]}"

    return re.sub(r"\b([^\W\d_]{2,}?)([aeiou])([^\W\d_aeiou]?)\b", lengthen, text)


def use_slang(text: str, random: Random) -> str:
    """Write half of the words in `SLANG` as people type them."""

    def replace(match: re.Match) -> str:
        return random.choice(SLANG[match[0].lower()]) if random.random() < 0.5 else match[0]

    return _SLANG_WORDS.sub(replace, text)


REWRITINGS: dict[str, Callable[[str, Random], str]] = {
    "capitals": capitalise,
    "attached": attach,
    "drawn out": draw_out,
    "slang": use_slang,
}


def rewrite(texts: list[str], names: tuple[str, ...] = tuple(REWRITINGS), seed: int = 0) -> list[str]:
    """Rewrite texts by some of `REWRITINGS`, each text with draws of its own; equal seeds give equal texts.

    Args:
        texts: n_texts strings in SmSA's style.
        names: which rewritings, in this order.
        seed: of the draws.
    """
    rewritten = []
    for number, text in enumerate(texts):
        random = Random(f"{seed} {number}")
        for name in names:
            text = REWRITINGS[name](text, random)
        rewritten.append(text)
    return rewritten


def is_smsa_style(text: str) -> bool:
    """Whether a text is in lower case with its punctuation apart, as SmSA's texts are."""
    return text == text.lower() and not re.search(r"\w[,.!?]|[,.!?]\w", text)
