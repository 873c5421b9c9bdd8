"""What `--calibrate` and `--normalise` change in a model folder, so that every client applies it."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from smsa.data.normaliser import add_normaliser
from smsa.errors import UserError
from smsa.files import hash_file, replace_files, staged, write_json
from smsa.models.bundled import BUNDLED
from smsa.models.loading import load_classifier, save_tokenizer


def last_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Get the layer whose outputs are the logits, and its name.

    Raises:
        ValueError: if the model does not end with a linear layer of one output a label.
    """
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != model.config.num_labels:
        raise UserError(f"{type(model).__name__} does not end with a linear layer, so it cannot be calibrated.")
    return linear[-1]


def require_model_folder(folder: str | Path) -> None:
    """Refuse what cannot be changed.

    Raises:
        ValueError: if it is no folder with safetensors, or the name of a model that comes with smsa.
    """
    if folder in BUNDLED or not Path(folder, "model.safetensors").is_file():
        raise UserError(
            f"only a model folder with a model.safetensors can be changed; {folder} is none. Of a model that comes "
            f"with smsa, change a copy: cp -r smsa/bundled/mini-sentiment runs/mine. (A folder of yours that has its "
            "name is ./mini-sentiment.)"
        )


def require_unseen(folder: str | Path, data_path: str | Path) -> None:
    """Refuse to calibrate by the file that the model was trained on, where its run.json tells.

    Raises:
        ValueError: with the way out.
    """
    record = Path(folder, "run.json")
    run = json.loads(record.read_bytes()) if record.is_file() else {}
    trained_on = run.get("data", {}).get("train", {}).get("sha256")  # a run.json may be another program's
    if hash_file(Path(data_path))[0] == trained_on:
        raise UserError(f"{folder} was trained on {data_path}, of which it is too sure: calibrate by valid.")


def store_temperature(folder: str | Path, temperature: float) -> float:
    """Divide the logits of a model folder by a temperature, for good: pipeline, ONNX and smsa all give what comes out.

    Two tensors change, in the precision in which they are stored, and `smsa_temperature` in config.json keeps the
    temperature. Each file is replaced whole, the weights first.

    Args:
        folder: a fine-tuned model on this machine.
        temperature: what its logits, as they are now, are divided by.

    Returns:
        The temperature against the model as it was trained: a model may be calibrated more than once.

    Raises:
        ValueError: if it is no folder with safetensors, or as `last_layer`.
    """
    folder = Path(folder)
    require_model_folder(folder)
    model, _ = load_classifier(folder)
    name, layer = last_layer(model)
    tensors = load_file(folder / "model.safetensors")
    if f"{name}.weight" not in tensors:
        raise UserError(f"{folder}/model.safetensors has no {name}.weight under that name, so it cannot be calibrated.")
    for part in ("weight",) if layer.bias is None else ("weight", "bias"):
        tensors[f"{name}.{part}"] /= temperature
    config = json.loads((folder / "config.json").read_bytes())
    config["smsa_temperature"] = config.get("smsa_temperature", 1.0) * temperature
    with staged(folder) as staging:
        save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
        write_json(config, staging / "config.json")
        replace_files(staging, folder, ("model.safetensors", "config.json"))
    return config["smsa_temperature"]


def store_normaliser(folder: str | Path) -> None:
    """Put the normaliser into the tokenizer of a model folder, for good: pipeline, exports and smsa all apply it.

    Args:
        folder: a fine-tuned model on this machine.

    Raises:
        ValueError: as `add_normaliser`, and as `load_classifier`.
    """
    folder = Path(folder)
    _, tokenizer = load_classifier(folder)
    with staged(folder) as staging:
        save_tokenizer(add_normaliser(tokenizer), staging)
        # in this order: a tokenizer_class of before does not look at the normaliser
        replace_files(staging, folder, ("tokenizer.json", "tokenizer_config.json"))
