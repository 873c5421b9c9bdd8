"""Model and tokenizer from the Hub, a folder or the package: no code of theirs runs, and nothing stays unfilled unseen.

`load_model` starts a fine-tuning, `load_encoder` a pre-training, and `load_classifier` takes a finished classifier.
All three hold weights in fp32, and raise UserError or OSError with the way out.
"""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from smsa.data.labels import LABELS, label_maps, parse_labels
from smsa.errors import UserError
from smsa.files import write_json
from smsa.models.scratch import build_scratch

logger = logging.getLogger(__name__)

# What comes with the package: an encoder (recipes/pretrain-mini.yaml), a fast classifier that was made from it
# (recipes/mini.yaml and informal.yaml), and a better one (recipes/e5.yaml and e5_rdrop.yaml), the default.
FOLDER = Path(__file__).parent.parent / "bundled"
BUNDLED = ENCODER, FAST, CLASSIFIER = ("mini", "mini-sentiment", "e5-sentiment")

_Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_model(
    model_name_or_path: str,
    labels: tuple[str, ...] = LABELS,
    revision: str | None = None,
    train_texts: Iterable[str] | None = None,
) -> _Loaded:
    """Load an encoder with a head for `labels`, and its tokenizer; seed first, for the head starts at random.

    A head is taken over only from a classifier with exactly these labels in this order. `model_max_length` of the
    tokenizer is what the encoder can read, whatever length it was fine-tuned with before.

    Args:
        model_name_or_path: a name on the Hub, a folder, `mini` (see `find_bundled`) or `scratch` (see `build_scratch`).
        labels: label names in the order of their ids.
        revision: branch, tag or commit on the Hub.
        train_texts: what `scratch` learns its vocabulary from; any other model takes none.

    Raises:
        UserError: if the checkpoint leaves a weight of the encoder unfilled or cannot be read, if the model wants to
            run code, or if its tokenizer is missing, is written in Python, pads on the left, or has too many tokens.
        OSError: if there is no such model, or no network to download it.
    """
    labels = tuple(labels)
    if model_name_or_path == "scratch":
        if train_texts is None:
            raise UserError("'scratch' learns its vocabulary from train_texts: give them.")
        return build_scratch(train_texts, labels)
    name, config = _load_config(model_name_or_path, revision)
    trained_labels = _trained_labels(config)
    config.update(label_maps(labels) | {"problem_type": "single_label_classification"})
    for change in ("smsa_temperature", "smsa_normalised"):  # since a training that is not this one
        vars(config).pop(change, None)
    model, random_weights = _load_weights(name, config, revision)
    if trained_labels != labels:
        # Also what the checkpoint has for a head, such as the layer that ModernBERT's classifier shares with its masked
        # language model: trained for the logits of thousands of tokens, its outputs are far too large for three labels.
        state = model.state_dict()
        foreign = {weight for weight in state if not weight.startswith(f"{model.base_model_prefix}.")} - random_weights
        fresh = type(model)(config).state_dict() if foreign else {}
        for weight in foreign:
            state[weight].copy_(fresh[weight])
        if trained_labels:
            logger.info("The head starts at random, for its labels were %s, in this order.", ",".join(trained_labels))
    tokenizer = _load_tokenizer(name, model, revision)
    require_padding(model, tokenizer)
    return model, tokenizer


def require_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose answer to a text changes with the pads behind it, which texts in batches have.

    Raises:
        UserError: saying why it does not fit.
    """
    kind = type(model).__name__
    if tokenizer.padding_side == "left":
        raise UserError(f"{kind} needs its padding on the left, which smsa does not do.")
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of {kind} has no pad token: save it with one, such as its eos_token, first.")
    model.config.pad_token_id = tokenizer.pad_token_id  # by which decoders find the last token
    ids = torch.tensor([tokenizer.encode("a")], device=model.device)
    mask, pads = torch.ones_like(ids), (0, 4)
    padded = functional.pad(ids, pads, value=tokenizer.pad_token_id)
    with torch.inference_mode():
        alone = model.eval()(input_ids=ids, attention_mask=mask).logits
        behind = model(input_ids=padded, attention_mask=functional.pad(mask, pads)).logits
    if (alone - behind).abs().max() > 1e-3 * alone.abs().max():
        raise UserError(f"{kind} reads the padding of a text as a part of it, which smsa needs it not to do.")


def load_classifier(model_name_or_path: str | Path | None = None, revision: str | None = None) -> _Loaded:
    """Load a trained classifier and its tokenizer, whose `model_max_length` is the length that it was trained with.

    Where none is named, it is e5-sentiment, and a warning says so.

    Raises:
        UserError, OSError: as `load_model`; and if a weight of the head is missing, or if the model gives one number,
            or several labels, for a text.
    """
    if model_name_or_path is None:
        model_name_or_path = CLASSIFIER
        logger.warning(
            f"No model was named: this is {CLASSIFIER}, the better of those that come with smsa; {FAST} is several "
            "times as fast. docs/models.md says how good they are, and where they fail."
        )
    name, config = _load_config(model_name_or_path, revision)
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        raise UserError(f"{name} does not choose one label among several: {config.problem_type or 'a single output'}.")
    model, random_weights = _load_weights(name, config, revision)
    if random_weights:
        lacking = ", ".join(sorted(random_weights))
        raise UserError(f"{name} has not been trained to classify: it lacks {lacking}. First run scripts/finetune.py.")
    return model, _load_tokenizer(name, model, revision, keeps_max_length=True)


def load_encoder(model_name_or_path: str, revision: str | None = None) -> _Loaded:
    """Load a masked language model to pre-train further, as `load_model` does; here only a missing head is random."""
    name, config = _load_config(model_name_or_path, revision)
    model, _ = _load_weights(name, config, revision, AutoModelForMaskedLM)
    return model, _load_tokenizer(name, model, revision)


def find_bundled(name: str | Path) -> str:
    """Return the folder of a bundled model; any other name comes back unchanged.

    `./mini` is a folder of the user's, and so is every Path.
    """
    return str(FOLDER / name if name in BUNDLED else name)


def choose_labels(labels: str | None, model_name_or_path: str, revision: str | None = None) -> tuple[str, ...]:
    """Return the names in `labels`, comma-separated, or else those that a model was trained with, or else `LABELS`."""
    if labels is not None:
        return parse_labels(labels)
    if model_name_or_path == "scratch":
        return LABELS
    return _trained_labels(_load_config(model_name_or_path, revision)[1]) or LABELS


def label_names(id2label: dict[int, str]) -> tuple[str, ...]:
    """Return the labels of a transformers configuration in the order of their ids.

    Raises:
        UserError: if the ids are not 0, 1, ... without a gap.
    """
    if sorted(id2label) != list(range(len(id2label))):
        raise UserError(f"id2label in config.json has the ids {', '.join(map(str, id2label))}, not 0, 1, and so on.")
    return tuple(str(id2label[i]) for i in range(len(id2label)))


def _trained_labels(config: PretrainedConfig) -> tuple[str, ...] | None:
    """Return the labels of a classifier; None for an encoder, a regression, and such as LABEL_0."""
    labels = label_names(config.id2label)
    return None if len(labels) < 2 or any(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels


def _load_config(model_name_or_path: str | Path, revision: str | None) -> tuple[str, PretrainedConfig]:
    """Return the name on the Hub or the folder of a model, and its configuration; or say why, and what there is."""
    name = find_bundled(model_name_or_path)
    if revision and Path(name).is_dir():
        raise UserError(f"{name} is a folder: revision {revision!r} goes with a name on the Hub.")
    try:  # a cache is for what generates a text; OpenVINO has no word for it
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False, use_cache=False)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, StrictDataclassError) as error:
        if isinstance(error.__context__, ImportError):  # of what a proxy needs
            raise error.__context__ from None
        if Path(name, "adapter_config.json").is_file():
            raise UserError(f"{name} is a LoRA adapter: merge it into its base model first.") from error
        if Path(name, "seeds.json").is_file():
            raise UserError(f"{name} has a model for each seed: give one of its folders seed-...") from error
        raise (OSError if isinstance(error, OSError) else UserError)(
            f"No model {name!r}: neither a folder with a config.json of a model that transformers knows, nor a name on "
            f"the Hub: {str(error).splitlines()[0]}\n"
            "Way out: check the name and the network, or give a folder that scripts/finetune.py has finished. Without "
            f"the Hub there are {CLASSIFIER}, {FAST} and, to train from, {ENCODER}."
        ) from error
    if Path(name, "export.json").is_file():
        raise UserError(f"{name} is an export, for other runtimes: give the model that it was made from.")
    if hasattr(config, "auto_map"):
        raise UserError(f"{name} wants to run code of its own (auto_map in config.json), which smsa never does.")
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method", "quantization_config in config.json")
        raise UserError(f"{name} has quantised weights ({method}): give the model that it was made from.")
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(f"{name} is of a kind, {config.model_type}, that transformers has no text classifier for.")
    return name, config


def _load_weights(
    name: str, config: PretrainedConfig, revision: str | None, kind: type = AutoModelForSequenceClassification
) -> tuple[PreTrainedModel, set[str]]:
    """Load a model in fp32; return it with the names of the weights that the checkpoint left at random."""
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"  # else transformers asks a bot of the Hub to convert a .bin
    try:
        model, report = kind.from_pretrained(
            name,
            config=config,
            revision=revision or "main",
            dtype=torch.float32,
            weights_only=True,  # torch's restricted unpickler
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # in the head; refused below in the encoder
            output_loading_info=True,
        )
    except pickle.UnpicklingError as error:  # its text recommends to read the file all the same
        raise UserError(
            f"{name}: pytorch_model.bin was refused: it is not a file of weights, or a pickle of more than tensors, "
            "which can run code when it is read. Ask its author for model.safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{name}: its weights, model.safetensors or pytorch_model.bin, are not there, not readable or damaged: "
            f"a Git LFS pointer or a download cut short, which the same command tries again: {error.__cause__ or error}"
        ) from error

    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    is_safe = any(cached_file(name, f"model.safetensors{end}", **options) for end in ("", ".index.json"))
    logger.info("Model: %s, weights from %s", name, "model.safetensors" if is_safe else "pytorch_model.bin")
    missing = set(report["missing_keys"])
    random_weights = missing | {weight for weight, *_ in report["mismatched_keys"]}
    if random_weights:
        logger.info("Starts at random: %s", ", ".join(sorted(random_weights)))
    prefix = f"{model.base_model_prefix}."
    encoder = {weight for weight in model.state_dict() if weight.startswith(prefix)}
    pooler = {weight for weight in encoder if weight.startswith(f"{prefix}pooler.")}
    if pooler <= missing:  # as in those of masked language models; one that has half a pooler is damaged
        encoder -= pooler
    if unfilled := sorted(random_weights & encoder):
        raise UserError(
            f"{name}: the checkpoint does not fill its encoder, so a model made from it would be partly random. Not in "
            f"it, or of another size: {', '.join(unfilled[:10])}. Is it complete, and does config.json belong to it?"
        )
    if unused := sorted(report["unexpected_keys"]):
        logger.warning("%s: not used (heads of pre-training never are): %s", name, ", ".join(unused[:10]))
    return model, random_weights


def _load_tokenizer(
    name: str, model: PreTrainedModel, revision: str | None, keeps_max_length: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; its `model_max_length` is what the encoder reads, or what it states if less."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        # where its files are missing, transformers 5 makes one up that has special tokens only
        if len(tokenizer) == len(tokenizer.all_special_tokens):
            raise ValueError("it has no tokens")
    except ValueError as error:
        reason = f"is tokenizer.json there, or the vocabulary? ({error})"
        if "tiktoken" in str(error):  # the guess of transformers, which needs more to read a file of SentencePiece
            reason = "to read its vocabulary, pip install sentencepiece protobuf."
        raise UserError(f"{name} lacks its tokenizer: {reason}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{name}: {type(tokenizer).__name__} is written in Python: give a model with a tokenizer.json.")
    n_rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > n_rows:
        raise UserError(f"{name}: the tokenizer has {len(tokenizer):,} tokens, the encoder only {n_rows:,}.")
    n_positions = getattr(model.config, "max_position_embeddings", None) or 0
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding):
        # RoBERTa counts positions from padding_idx + 1; tokenizers of 2020 do not state a maximum
        n_positions = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    if n_positions > 0:
        stated = tokenizer.model_max_length if keeps_max_length else n_positions
        tokenizer.model_max_length = min(stated, n_positions)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save a tokenizer, with the length for inference, so that transformers 4 and transformers.js can load it."""
    tokenizer.save_pretrained(folder)
    path = Path(folder, "tokenizer_config.json")
    config = json.loads(path.read_bytes())
    if config["tokenizer_class"] == "TokenizersBackend":  # transformers 5's name for a tokenizer.json as it is
        write_json(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, path)


def freeze_layers(model: PreTrainedModel, embeddings: bool = False, n_layers: int = 0) -> None:
    """Exclude the embeddings, or the first `n_layers` layers, of the encoder from training.

    Raises:
        UserError: if it has no embeddings, or not so many layers, of its own; or its layers share weights, as ALBERT's.
    """
    name, encoder, depth = type(model).__name__, model.base_model, getattr(model.config, "num_hidden_layers", 0)
    parts = encoder.named_children()  # decoders have no part of all embeddings
    parts = [part for called, part in parts if called == "embeddings" or isinstance(part, nn.Embedding)]
    stacks = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if embeddings and not parts:
        raise UserError(f"--freeze_embeddings: {name} has no embeddings that can be told apart.")
    if n_layers and not (stacks and 0 < n_layers <= depth):
        raise UserError(f"--freeze_layers {n_layers}: {name} has {depth} layers, or they share their weights.")
    for part in parts if embeddings else ():
        part.requires_grad_(False)
    if n_layers:
        stacks[0][:n_layers].requires_grad_(False)
