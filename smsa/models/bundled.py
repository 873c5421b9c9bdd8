"""The two models that are installed with the package, and need no hub: an encoder, and a classifier made from it.

bundled/mini             scripts/pretrain.py recipes/pretrain-mini.yaml
bundled/mini-sentiment   scripts/finetune.py recipes/mini.yaml
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "bundled"
ENCODER, CLASSIFIER = "mini", "mini-sentiment"
BUNDLED = (ENCODER, CLASSIFIER)


def find_bundled(name: str | Path) -> str:
    """Get the folder of `mini` or `mini-sentiment`; any other name comes back as it is.

    `./mini` is a folder of yours, and so is every Path.

    Raises:
        FileNotFoundError: if the package was installed without them.
    """
    if name not in BUNDLED:
        return str(name)
    folder = FOLDER / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{name} did not come with this installation of smsa; `make mini` makes it anew.")
    return str(folder)


def introduce_classifier() -> str:
    """Get the sentence that says what is used where no model was named, how good it is, and what is better."""
    metrics = json.loads(Path(find_bundled(CLASSIFIER), "metrics.json").read_bytes())
    scores = metrics["valid"]
    low, high = scores["intervals"]["f1"]
    return (
        f"No model was named: this is {CLASSIFIER}, a small one that comes with smsa. On SmSA valid, by which it was "
        f"chosen, its macro F1 is {100 * scores['f1']:.1f} ({100 * low:.1f} to {100 * high:.1f}) and its accuracy "
        f"{100 * scores['accuracy']:.1f}. With a hub at hand, fine-tune IndoBERT: recipes/indonlu.yaml."
    )
