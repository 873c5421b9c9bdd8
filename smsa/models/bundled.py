"""The two models that are installed with the package and need no download: an encoder, and a classifier made from it.

bundled/mini             scripts/pretrain.py recipes/pretrain-mini.yaml
bundled/mini-sentiment   scripts/finetune.py recipes/mini.yaml
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "bundled"
ENCODER, CLASSIFIER = "mini", "mini-sentiment"
BUNDLED = (ENCODER, CLASSIFIER)


def find_bundled(name: str | Path) -> str:
    """Return the folder of `mini` or `mini-sentiment`; any other name comes back unchanged.

    `./mini` is a folder of the user's, and so is every Path.
    """
    return str(FOLDER / name if name in BUNDLED else name)


def introduce_classifier() -> str:
    """Return what is logged where no model was named: which one is used, how good it is, and what is better."""
    scores = json.loads(Path(find_bundled(CLASSIFIER), "metrics.json").read_bytes())["valid"]
    low, high = scores["intervals"]["f1"]
    return (
        f"No model was named: this is {CLASSIFIER}, a small one that comes with smsa. On SmSA valid, on which it was "
        f"chosen, its macro F1 is {100 * scores['f1']:.1f} ({100 * low:.1f} to {100 * high:.1f}) and its accuracy "
        f"{100 * scores['accuracy']:.1f}. Where there is a network, fine-tune IndoBERT: recipes/indonlu.yaml."
    )
