"""Changes that scripts/calibrate.py makes to a copy of a model folder, so that every client applies the calibration."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.hf_argparser import HfArg

from smsa.errors import UserError
from smsa.evaluation.systems import was_trained_on
from smsa.files import update_json
from smsa.models.loading import BUNDLED, load_classifier


@dataclass
class CalibrationArguments:
    """Which model to calibrate, and where the calibrated one goes."""

    model: str = HfArg(help="Folder of a fine-tuned model, or a bundled one; it is not changed.")
    output: str = HfArg(help="Folder for the calibrated model; new or empty.")
    normalise_elongated: bool = HfArg(default=False, help="Also let the tokenizer read enaaak as enak.")


def find_model_folder(name: str, data_path: str | Path) -> Path:
    """Return the folder of a model, local or bundled; refuse it if its run.json has the file as train."""
    folder = Path(BUNDLED.get(name, name))
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"only a model folder with a model.safetensors can be calibrated: {name} is not one.")
    if was_trained_on(name, data_path):
        valid = folder / "predictions_valid.csv"  # if valid was split off, only this file has it
        options = f" --data {shlex.quote(str(valid))} --label_column gold" if valid.is_file() else ""
        raise UserError(f"{folder} was trained on {data_path}, on which it is too sure: calibrate on valid{options}.")
    return folder


def store_temperature(folder: str | Path, temperature: float, shift: torch.Tensor | None = None) -> None:
    """Divide the logits of a model folder by a temperature, for every client: pipeline, exports and smsa.

    Then add `shift`, of shape (n_labels,), which needs a last layer with a bias. Only the weight and the bias of that
    layer change; they keep their dtype. config.json keeps the product of the temperatures of all calls, as
    `smsa_temperature`. Raise a UserError if no linear layer gives the logits.
    """
    folder = Path(folder)
    model, _ = load_classifier(folder)
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != model.config.num_labels:
        raise UserError(f"{type(model).__name__} does not end with a linear layer, so it cannot be calibrated.")
    name, layer = linear[-1]
    temperature_before = getattr(model.config, "smsa_temperature", 1.0)
    tensors = load_file(folder / "model.safetensors")
    for part in layer.state_dict():
        tensors[f"{name}.{part}"] /= temperature
    if shift is not None:
        tensors[f"{name}.bias"] += shift
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    update_json(folder / "config.json", smsa_temperature=temperature_before * temperature)
