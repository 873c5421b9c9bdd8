"""Evaluate sentiment models on texts unseen in training: sets excluded from the mixture, short phrases, invariances.

python benchmarks/sentiment.py --models mini-sentiment e5-sentiment mini-sentiment+e5-sentiment --labelled_dir DIR \\
    --held_out runs/mixture/calibration.csv

Speeds are measured side by side, on the same texts in one run. docs/models.md has the output.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mode

from smsa import SentimentClassifier
from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import LABELS
from smsa.evaluation.markdown import header, row
from smsa.evaluation.perturbations import perturb
from smsa.evaluation.statistics import measure_calibration
from smsa.training.metrics import score_label_ids

PHRASES = Path(__file__).parent.parent / "tests" / "models" / "phrases.csv"
SETS = {"IndoLEM": ["indolem-sentiment.csv"], "CASA": [f"casa-{split}.csv" for split in ("train", "valid", "test")]}
# Changes to any text that keep its meaning.
CHANGES = {
    "a link": lambda texts: [f"{text} https://t.co/k7Yb2Qx" for text in texts],
    "a mention": lambda texts: [f"@sahabat_kita {text}" for text in texts],
    "hashtags": lambda texts: [f"{text} #infokota #2024" for text in texts],
    "HTML": lambda texts: [f'<a href="https://t.co/a">http://t.co/a</a><br>{text}&quot;' for text in texts],
    "RT": lambda texts: [f"RT @akun: {text}" for text in texts],
    "a lost emoji": lambda texts: [f"{text} ??" for text in texts],
    "!!!": lambda texts: [f"{text.rstrip('?!. ')}{'?' if text.endswith('?') else ''}!!!" for text in texts],
    "CAPITALS": lambda texts: [text.upper() for text in texts],
    "elongated": lambda texts: perturb(texts, ("elongated",)),
    "slang": lambda texts: perturb(texts, ("slang",)),
}

# Where a text has one of these, another one should not change its label, and better, nor should the first.
SWAPS = {
    "name": ("kak {}, {}", "Agus Asep Ayu Bambang Dewi Fitri Hendra Jessica Muhammad Nyoman Putri Siti Togar".split()),
    "place": ("{1} di {0}", "Ambon Bandung Bekasi Denpasar Jakarta Malang Medan Pontianak Surabaya Yogyakarta".split()),
    "rarer name": ("kak {}, {}", "Bella Gibran Ketut Lastri Marsudi Rahel Sukirman Tasya Togar Ucok".split()),
    "rarer place": ("{1} di {0}", "Bangkinang Enrekang Mamuju Muntilan Sengkang Tolitoli Waingapu Wamena".split()),
    "number": ("{1} nomor {0}", "1 2 3 7 10 12 17 25 50 99 100 123 2024".split()),
}


def read_polar(paths: list[Path]) -> tuple[list[str], np.ndarray]:
    """Return the texts that their columns call positive or negative but not both, and their label ids."""
    rows = pd.concat([pd.read_csv(path, keep_default_na=False) for path in paths], ignore_index=True)
    is_positive, is_negative = (rows.drop(columns="text").eq(label).any(axis=1) for label in ("positive", "negative"))
    label_ids = np.where(is_positive, LABELS.index("positive"), LABELS.index("negative"))
    is_polar = is_positive != is_negative
    return rows["text"][is_polar].tolist(), label_ids[is_polar]


def predict(classifier: SentimentClassifier, texts: list[str]) -> np.ndarray:
    """Return probabilities of shape (n_texts, 3); a text without words is neutral."""
    found = classifier(texts)
    return np.array([[0.3, 0.4, 0.3] if one["empty"] else [one[f"p_{label}"] for label in LABELS] for one in found])


def measure_held_out(model: SentimentClassifier, path: Path) -> dict[str, str]:
    """Return the accuracy on what scripts/mixture.py held out, by source, in per cent."""
    rows = pd.read_csv(path, keep_default_na=False)
    probabilities = predict(model, rows["text"].tolist())
    rows["is_right"] = rows["label"] == np.array(LABELS)[probabilities.argmax(-1)]
    rows["is_sure"] = probabilities.max(-1) > 0.9
    measured = {}
    for source, part in rows.groupby("source", sort=False):
        measured[f"{source}, {len(part)} held out: accuracy"] = f"{100 * part['is_right'].mean():.1f}"
        measured[f"{source}: right of those above 0.9"] = f"{100 * part['is_right'][part['is_sure']].mean():.1f}"
    return measured


def measure(name: str, labelled_dir: Path, held_out: Path) -> dict[str, str]:
    """Return all figures of one model, in per cent, by their names."""
    model = SentimentClassifier.from_pretrained(name)
    texts, label_ids, _, _ = read_rows(find_smsa()["valid"])
    sets = {"SmSA valid": (texts, np.array(label_ids))}
    sets |= {title: read_polar([labelled_dir / file for file in files]) for title, files in SETS.items()}
    measured = {}
    for title, (texts, gold) in sets.items():
        probabilities = predict(model, texts)
        is_right, is_sure = probabilities.argmax(-1) == gold, probabilities.max(-1) > 0.9
        if title in SETS:
            polar = probabilities[:, [0, 2]].argmax(-1) == gold // 2
            scores = {"accuracy": is_right.mean(), "polar accuracy": polar.mean()}
        else:
            scores = {"macro F1": score_label_ids(probabilities.argmax(-1), gold, LABELS)["f1"]}
        scores["calibration error"] = measure_calibration(gold, probabilities)["expected_calibration_error"]
        scores["right of those above 0.9"] = is_right[is_sure].mean()
        measured |= {f"{title}: {score}": f"{100 * value:.1f}" for score, value in scores.items()}
    measured |= measure_held_out(model, held_out)
    phrases = pd.read_csv(PHRASES, keep_default_na=False)
    texts = phrases["text"].tolist()
    label_ids = predict(model, texts).argmax(-1)
    is_right = phrases["label"] == np.array(LABELS)[label_ids]
    measured["phrases: accuracy"] = f"{100 * is_right.mean():.1f}"
    for kind, share in is_right.groupby(phrases["kind"], sort=False).mean().items():
        measured[f"phrases: {kind}"] = f"{100 * share:.0f}"
    for change, apply in CHANGES.items():
        share = (predict(model, apply(texts)).argmax(-1) == label_ids).mean()
        measured[f"same label with {change}"] = f"{100 * share:.1f}"
    for kind, (form, words) in SWAPS.items():
        found = np.array([predict(model, [form.format(word, text) for text in texts]).argmax(-1) for word in words])
        share = np.mean(found == mode(found).mode)  # (n_words, n_texts) against (n_texts,)
        measured[f"usual label with any {kind}"] = f"{100 * share:.1f}"
        measured[f"same label with a {kind}"] = f"{100 * np.mean(found == label_ids):.1f}"
    return measured


def main(models: list[str], labelled_dir: Path, held_out: Path) -> None:
    """Print a table with a column for each model."""
    columns = {name: measure(name, labelled_dir, held_out) for name in models}
    texts, _ = read_polar([labelled_dir / file for file in SETS["IndoLEM"]])
    for name, model in {name: SentimentClassifier.from_pretrained(name) for name in models}.items():
        seconds = []
        for _ in range(4):  # the first one warms up
            start = time.perf_counter()
            predict(model, texts[:2000])
            seconds.append(time.perf_counter() - start)
        columns[name]["rows/s"] = f"{min(2000, len(texts)) / min(seconds[1:]):,.0f}"
    print(header("in per cent", *models))
    for figure in columns[models[0]]:
        print(row(figure, *(column[figure] for column in columns.values())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--labelled_dir", type=Path, required=True)
    parser.add_argument("--held_out", type=Path, required=True, help="calibration.csv of scripts/mixture.py")
    main(**vars(parser.parse_args()))
