"""Tokenizer and encoder with our labels attached; loading that runs no code from the model and lets nothing pass."""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from smsa.data.labels import LABELS, label_maps, label_names, parse_labels
from smsa.errors import UserError
from smsa.files import hash_file, write_json
from smsa.models.bundled import CLASSIFIER, ENCODER, find_bundled

logger = logging.getLogger(__name__)

# Weights that a checkpoint may have and the model does not take: other heads, buffers, and the pooler of architectures
# whose classifier brings its own.
_LEFT_OUT = re.compile(
    r"^(classifier|cls|decoder|lm_head|predictions|sop_classifier|vocab_transform|vocab_layer_norm|vocab_projector"
    r"|mlm_head|generator\w*|discriminator\w*)\.|(^|\.)pooler\.|(^|\.)(position_ids|token_type_ids)$"
)
_MODEL_FILE = re.compile(
    r"(model|pytorch_model).*\.(safetensors|bin)|config\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\..*|merges\.txt|.*\.model"
)
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def hash_model_files(model_name_or_path: str) -> dict[str, str]:
    """Get sha256 of each file of a model on this machine that its weights or word pieces depend on, by name.

    Empty for a name on the Hub, whose commit stands for it, and for what starts from nothing.
    """
    files = sorted(Path(find_bundled(model_name_or_path)).glob("*"))
    return {path.name: hash_file(path)[0] for path in files if _MODEL_FILE.fullmatch(path.name)}


def choose_labels(labels: str | None, model_name_or_path: str, revision: str | None = None) -> tuple[str, ...]:
    """Get the label names in the order of their ids.

    Args:
        labels: names, comma-separated; None takes those that the model carries, or `LABELS` where it carries none
            (LABEL_0 is not a name).
        model_name_or_path, revision: as in `load_model`.

    Raises:
        ValueError: as `parse_labels`.
    """
    if labels is not None:
        return parse_labels(labels)
    if model_name_or_path == "scratch":
        return LABELS
    return _named_labels(_load_config(find_bundled(model_name_or_path), revision)) or LABELS


def _named_labels(config: PretrainedConfig) -> tuple[str, ...] | None:
    names = label_names(config.id2label)
    return None if any(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def load_model(
    model_name_or_path: str,
    labels: tuple[str, ...] = LABELS,
    revision: str | None = None,
    train_texts: Iterable[str] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder with a head for `labels`, and its tokenizer; seed first, for the head starts at random.

    Weights come from safetensors where there is one, else from a `.bin` through torch's restricted unpickler; never
    through code that the model brings. They are held in fp32. A head is taken over only from a classifier that carries
    exactly these labels in this order. The layer that ModernBERT's classifier shares with its masked language model
    starts anew, too: that of `mini` gives what suits the logits of thousands of word pieces, far too large for labels.

    Args:
        model_name_or_path: a name on the Hub, a folder, `mini` (see `find_bundled`) or `scratch` (see `build_scratch`).
        labels: label names in the order of their ids.
        revision: branch, tag or commit on the Hub.
        train_texts: what `scratch` learns its word pieces and their first vectors from.

    Raises:
        ValueError: if the checkpoint leaves a weight of the encoder unfilled, has one that is neither the encoder's nor
            a known pre-training head's, wants to run code, or does not fit its tokenizer.
        OSError: if there is no such model, or no network to get it.
    """
    labels = tuple(labels)
    if model_name_or_path == "scratch":
        if train_texts is None:
            raise UserError("'scratch' learns its word pieces from train_texts; give them.")
        if revision:
            raise UserError(f"revision {revision!r} goes with a name on the Hub: 'scratch' has none.")
        from smsa.models.scratch import (
            build_scratch,  # scikit-learn takes most of a second, for which scoring would wait
        )

        return build_scratch(train_texts, labels)
    model_name_or_path = find_bundled(model_name_or_path)
    config = _load_config(model_name_or_path, revision)
    keeps_head = _named_labels(config) == labels
    maps = label_maps(labels)
    config.id2label, config.label2id = maps["id2label"], maps["label2id"]
    config.problem_type = "single_label_classification"
    model, drawn = _read_weights(model_name_or_path, config, revision)
    if drawn:
        logger.info("Starts at random: %s", ", ".join(sorted(drawn)))
    if not keeps_head:
        _redraw_head(model, drawn)
    tokenizer = _load_tokenizer(model_name_or_path, model, revision)
    if tokenizer.padding_side == "left":
        raise UserError(
            f"{model_name_or_path} ({type(model).__name__}) wants its pads on the left, which smsa does not do."
        )
    return model, tokenizer


def load_classifier(
    model_name_or_path: str | Path, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that was trained to tell labels apart, as safely as `load_model`, in fp32.

    Raises:
        ValueError: if a weight is missing, also in the head; if it gives one number or several labels a text; and as
            `load_model`.
        OSError: as `load_model`.
    """
    model_name_or_path = find_bundled(model_name_or_path)
    config = _load_config(model_name_or_path, revision)
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        kind = config.problem_type or "a single output"
        raise UserError(f"{model_name_or_path} does not choose one label among several: {kind}.")
    model, drawn = _read_weights(model_name_or_path, config, revision)
    if drawn:
        raise UserError(
            f"{model_name_or_path} has not been trained to classify: it lacks {', '.join(sorted(drawn))}. "
            "Fine-tune it first with scripts/finetune.py."
        )
    return model, _load_tokenizer(model_name_or_path, model, revision)


def load_encoder(
    model_name_or_path: str, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model to go on pre-training, as safely as `load_model`, in fp32.

    Its head starts at random where the checkpoint brings none; seed first.

    Raises:
        ValueError: as `load_model`, and if transformers knows no masked language model of this architecture.
        OSError: as `load_model`.
    """
    model_name_or_path = find_bundled(model_name_or_path)
    config = _load_config(model_name_or_path, revision)
    model, drawn = _read_weights(model_name_or_path, config, revision, AutoModelForMaskedLM)
    if drawn:
        logger.info("Starts at random: %s", ", ".join(sorted(drawn)))
    return model, _load_tokenizer(model_name_or_path, model, revision)


def _read_weights(
    name: str, config: PretrainedConfig, revision: str | None, kind: type = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, set[str]]:
    """Get the model in fp32, and the names of the weights that were drawn at random."""
    weights_file = _find_weights(name, revision)
    logger.info("Model: %s, weights from %s", name, weights_file)
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else transformers asks a bot of the Hub to convert a .bin
    try:
        model, report = kind.from_pretrained(
            name,
            config=config,
            revision=revision or "main",
            dtype=torch.float32,
            use_safetensors="safetensors" in weights_file,
            weights_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a head of another size; anything else is refused below
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name}: {weights_file} was refused: it is not a file of weights, or a pickle of more than "
            "tensors, which can run code when it is read. Ask its author for model.safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{name}: {weights_file} cannot be read: damaged, cut short or a Git LFS pointer: {error}"
        ) from error
    return model, _check_weights(name, model, report)


def _load_tokenizer(name: str, model: PreTrainedModel, revision: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        # where its files are missing, transformers 5 makes one up that knows special tokens alone
        problem = "" if len(tokenizer) > len(tokenizer.all_special_tokens) else "it knows no word piece"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(f"{name} lacks its tokenizer: is tokenizer.json there, or the vocabulary? ({problem})")
    _fit_tokenizer(name, model, tokenizer)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a tokenizer so that transformers 4 and transformers.js find its class, too."""
    tokenizer.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    if config["tokenizer_class"] == "TokenizersBackend":  # transformers 5's name for a tokenizer.json as it is
        write_json(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, path)


def _load_config(name: str, revision: str | None) -> PretrainedConfig:
    if revision and Path(name).is_dir():
        raise UserError(f"{name} is a folder: revision {revision!r} goes with a name on the Hub.")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise OSError(
            f"{name} is no model: it has no config.json. Give a folder that scripts/finetune.py has finished."
        )
    parent, there = Path(name).parent, ""
    if not Path(name).exists() and parent != Path(".") and parent.is_dir():
        names = sorted(path.name for path in parent.iterdir() if path.is_dir())
        there = f" {name} is no folder here: {parent} has {', '.join(names[:20]) or 'none'}."
        logger.warning("%s", there.strip())  # before the Hub is asked, which may take its time
    try:
        values, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except OSError as error:
        raise OSError(
            f"No model {name!r}: it is not a folder with a config.json, and could not be had from the Hub: {error}\n"
            f"Way out: check the name and the network, or give a folder.{there} Without the Hub there are "
            f"{CLASSIFIER}, which labels texts, and {ENCODER}, to fine-tune."
        ) from error
    if "auto_map" in values:
        raise UserError(f"{name} wants to run code of its own (auto_map in config.json), which smsa never does.")
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _find_weights(name: str, revision: str | None) -> str:
    for filename in _WEIGHT_FILES:
        if cached_file(name, filename, revision=revision, _raise_exceptions_for_missing_entries=False):
            return filename
    if Path(name, "export.json").is_file():
        raise OSError(f"{name} is an export, for other runtimes: give the model that it was made from.")
    raise OSError(f"{name} has no weights: none of {', '.join(_WEIGHT_FILES)} is there.")


def _head_names(model: PreTrainedModel) -> set[str]:
    """Names of the weights outside the encoder."""
    return {name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")}


def _check_weights(name: str, model: PreTrainedModel, report: dict[str, set]) -> set[str]:
    """Refuse a checkpoint that does not fill the encoder; get the names of the weights that were drawn at random."""
    head = _head_names(model)
    # Checkpoints of masked language models have no pooler at all; one that has half of it is damaged.
    pooler = {weight for weight in model.state_dict() if weight.startswith(f"{model.base_model_prefix}.pooler.")}
    missing = set(report["missing_keys"])
    unfilled = missing - head - (pooler if pooler <= missing else set())
    resized = {weight for weight, *_ in report["mismatched_keys"]}
    left_over = {weight for weight in report["unexpected_keys"] if not _LEFT_OUT.search(weight)}
    faults = {"not in the checkpoint": unfilled, "of another size": resized - head, "not of this encoder": left_over}
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(sorted(weights))}" for fault, weights in faults.items() if weights)
        raise UserError(
            f"{name}: the checkpoint does not fill its encoder, so a model made from it would be partly random. "
            f"Weights {listed}. Is it complete, and does config.json belong to it?"
        )
    return missing | resized


def _redraw_head(model: PreTrainedModel, drawn: set[str]) -> None:
    """Draw the rest of the head, too: the checkpoint trained it for something else than these labels in this order."""
    foreign = _head_names(model) - drawn
    if foreign:
        logger.info("Starts at random, for it was not trained for these labels: %s", ", ".join(sorted(foreign)))
        fresh, state = type(model)(model.config).state_dict(), model.state_dict()
        with torch.no_grad():
            for name in foreign:
                state[name].copy_(fresh[name])


def _fit_tokenizer(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more pieces than the encoder has; let it cut texts where the encoder's positions end."""
    n_rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > n_rows:
        raise UserError(f"{name}: the tokenizer has {len(tokenizer):,} word pieces, the encoder only {n_rows:,}.")
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    n_stated = getattr(model.config, "max_position_embeddings", None) or 0
    if n_stated > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, n_stated)
    if isinstance(positions, nn.Embedding):
        # RoBERTa counts positions from padding_idx + 1; tokenizers of 2020 do not say how long a text may be
        n_positions = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
        tokenizer.model_max_length = min(tokenizer.model_max_length, n_positions)


def freeze_layers(model: PreTrainedModel, embeddings: bool = False, n_layers: int = 0) -> None:
    """Exclude the embeddings, or the first `n_layers` layers, of the encoder from training.

    Raises:
        ValueError: if the encoder has no such parts of its own, as ALBERT, whose layers share their weights.
    """
    name = type(model).__name__
    frozen: list[nn.Module] = []
    if embeddings:
        if not hasattr(model.base_model, "embeddings"):
            raise UserError(f"--freeze_embeddings: {name} has no embeddings that can be told apart.")
        frozen.append(model.base_model.embeddings)
    if n_layers:
        depth = model.config.num_hidden_layers
        stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        if not stacks or model.config.model_type == "albert":
            raise UserError(f"--freeze_layers: the layers of {name} are shared or cannot be told apart.")
        if not 0 < n_layers <= depth:
            raise UserError(f"--freeze_layers {n_layers}: {name} has {depth} layers.")
        frozen += stacks[0][:n_layers]
    for module in frozen:
        module.requires_grad_(False)
    if frozen:
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info("Trains %s of %s parameters", f"{n_trained:,}", f"{model.num_parameters():,}")
