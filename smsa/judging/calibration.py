"""Temperature scaling that every client applies: the division is folded into the weights of the model's last layer."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from smsa.files import replace_files, stage
from smsa.judging.baselines import System
from smsa.judging.statistics import apply_temperature
from smsa.model import load_classifier


@dataclass(frozen=True)
class Calibrated:
    """A system whose logits are divided by a temperature; its labels are those of the system itself."""

    system: System
    temperature: float
    kind = "calibrated"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.system.labels

    def predict(self, texts: list[str]) -> np.ndarray:
        return apply_temperature(self.system.predict(texts), self.temperature)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """Get the layer whose outputs are the logits.

    Raises:
        ValueError: if the model does not end with a linear layer of one output a label.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != model.config.num_labels:
        raise ValueError(f"{type(model).__name__} does not end with a linear layer, so it cannot be calibrated.")
    return linear[-1]


def require_model_folder(folder: str | Path) -> None:
    """Refuse what `store_temperature` cannot change.

    Raises:
        ValueError: if it is no folder with safetensors.
    """
    if not Path(folder, "model.safetensors").is_file():
        raise ValueError(f"only a model folder with a model.safetensors can be changed; {folder} is none.")


def store_temperature(folder: str | Path, temperature: float) -> float:
    """Divide the logits of a model folder by a temperature, for good: pipeline, ONNX and smsa all give what comes out.

    Weights and configuration are replaced together, from a folder beside them. config.json keeps the temperature.

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
    model, _ = load_classifier(str(folder))
    layer = last_layer(model)
    layer.weight.data /= temperature
    if layer.bias is not None:
        layer.bias.data /= temperature
    model.config.smsa_temperature = getattr(model.config, "smsa_temperature", 1.0) * temperature
    staging = stage(folder)
    try:
        model.save_pretrained(staging)
        replace_files(staging, folder, ("model.safetensors", "config.json"))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return model.config.smsa_temperature
