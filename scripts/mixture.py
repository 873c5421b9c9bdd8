"""Make the texts that the bundled sentiment models are fine-tuned on, and those that they are calibrated on.

python scripts/mixture.py data/mixture/recipe.yaml --labelled_dir DIR --output runs/mixture

The recipe names each source, its licence and the rows to take. A text is excluded if it equals a text that the models
are evaluated on, or shares eight words in a row with one.
"""

import argparse
import csv
import hashlib
import os
import re
from pathlib import Path
from random import Random

import yaml

from smsa.cli import exit_on_error
from smsa.data.datasets import find_smsa, read_rows
from smsa.data.labels import LABELS
from smsa.evaluation.perturbations import perturb
from smsa.files import hash_file, require_empty, staged, write_json
from smsa.pretraining.corpus import find_overlaps, read_sources, read_texts

ROOT = Path(__file__).parent.parent
Rows = list[tuple[str, str]]  # text and label


def main(recipe: Path, labelled_dir: Path, output: Path) -> None:
    """Write train.csv, inserted.csv, calibration.csv and mixture.json, which describes them, into a new folder."""
    require_empty(output, "choose another --output")
    plan = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    random = Random(plan["seed"])
    folders = {"labelled": labelled_dir, "corpus": Path(os.environ.get("SMSA_CORPUS_DIR", ".")), "smsa": ROOT}
    evaluation = [text for source in read_sources(["smsa"], to_exclude=True) for text in source.texts]
    for path in (*(labelled_dir / name for name in plan["kept_out"]), ROOT / "tests" / "models" / "phrases.csv"):
        evaluation += read_texts(path)
    overlaps = find_overlaps(evaluation)
    train, calibration = [], []
    record = {"seed": plan["seed"], "kept_out": plan["kept_out"], "sources": {}}
    for name, source in plan["sources"].items():
        path = find_smsa()["train"] if name == "smsa" else folders[source["folder"]] / name
        found = select(path, source, random)
        kept = [row for row in found if not overlaps(row[0])]
        described = {"licence": source["licence"], "sha256": hash_file(path), "n_excluded": len(found) - len(kept)}
        random.shuffle(kept)
        kept = kept[: source.get("n_texts")]
        labels = [label for _, label in kept]
        record["sources"][name] = described | {"n_texts": {label: labels.count(label) for label in LABELS}}
        n_held_out = round(plan["calibration"] * len(kept))
        calibration += [(text, label, name) for text, label in kept[:n_held_out]]
        train += kept[n_held_out:]
    in_train = {text for text, _ in train}
    calibration = [row for row in calibration if row[0] not in in_train]
    n_slang = round(plan["slang"] * len(train))
    random.shuffle(train)
    slang = perturb([text for text, _ in train[:n_slang]], ("slang",), plan["seed"])
    train[:n_slang] = [(text, label) for text, (_, label) in zip(slang, train, strict=False)]
    words = {}
    for file in ("insertions", "names"):
        words |= yaml.safe_load((ROOT / "data" / "mixture" / f"{file}.yaml").read_text(encoding="utf-8"))
    inserted = [(insert(text, words, random) if random.random() < 0.5 else text, label) for text, label in train]
    record["n_overlapping"] = sum(overlaps(text) for text, *_ in train + inserted + calibration)
    output.parent.mkdir(parents=True, exist_ok=True)
    with staged(output.parent) as folder:
        for split, rows in (("train", train), ("inserted", inserted), ("calibration", calibration)):
            with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows([("text", "label", "source")[: len(rows[0])], *rows])
            record[split] = {"sha256": hash_file(folder / f"{split}.csv"), "n_texts": len(rows)}
        write_json(record, folder / "mixture.json")
        folder.rename(output)


def select(path: Path, source: dict, random: Random) -> Rows:
    """Return the rows of one source that its recipe takes."""
    if path.suffix == ".yaml":
        return make_phrases(path, source["n_phrases"], random)
    if path.suffix != ".txt":
        texts, label_ids, _, _ = read_rows(path)
        rows = [(text, LABELS[i]) for text, i in zip(texts, label_ids, strict=True)]
        return rows if path.suffix == ".csv" else list(dict(rows).items())  # SmSA has some texts twice
    texts = read_texts(path)
    if "labels" in source:  # a file of hashes of texts, and labels: data/mixture/annotation.md
        labels = dict(csv.reader((ROOT / source["labels"]).open(encoding="utf-8"), delimiter="\t"))
        keys = {hashlib.sha256(text.encode()).hexdigest()[:16]: text for text in texts}
        return [(re.sub(r"xxx\w+?xxx", "1", text), labels[key]) for key, text in keys.items() if key in labels]
    low, high = source["words"]
    refused = re.compile(source["refused"], re.I)
    return [(text, "neutral") for text in texts if low <= len(text.split()) <= high and not refused.search(text)]


def make_phrases(path: Path, n_phrases: int, random: Random) -> Rows:
    """Return distinct phrases of a grammar, equally many for each label; see data/mixture/phrases.yaml."""
    grammar = yaml.safe_load(path.read_text(encoding="utf-8"))
    phrases: dict[str, str] = {}
    for number, label in enumerate(LABELS, 1):
        while len(phrases) < number * (n_phrases // len(LABELS)):
            text = random.choice(grammar[label])
            while "{" in text:
                text = re.sub(r"\{(\w+)\}", lambda slot: random.choice(grammar["slots"][slot[1]]), text)
            phrases.setdefault(mistype(" ".join(text.split()), random), label)
    return list(phrases.items())


def insert(text: str, words: dict, random: Random) -> str:
    """Add a name, a place or a number to a text, with `words` of data/mixture/insertions.yaml and names.yaml."""
    kind = random.choice(("name", "place", "number"))
    if kind == "number":
        added = str(random.randint(*random.choice(((1, 10), (11, 120), (1990, 2030), (121, 99_999)))))
    elif random.random() < 0.5:
        added = random.choice(words[f"{kind}s"].split())
    else:
        added = "".join(random.choices(words["syllables"].split(), k=random.randint(2, 3)))
    return random.choice(words[kind]).format(added, text)


def mistype(text: str, random: Random) -> str:
    """Drop vowels within one word in twenty, and double the last letter of another one in twenty."""
    words = text.split(" ")
    for i, word in enumerate(words):
        draw = random.random()
        if draw < 0.05 and len(word) > 4:
            words[i] = word[0] + re.sub("[aiueo]", "", word[1:-1], count=random.randint(1, 2)) + word[-1]
        elif draw < 0.1 and word.isalpha() and len(word) > 3:
            words[i] = word + word[-1]
    return " ".join(words)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--labelled_dir", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    with exit_on_error():
        main(**vars(parser.parse_args()))
