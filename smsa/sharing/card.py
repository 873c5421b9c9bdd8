"""The model card: README.md beside a model, a Jinja template filled with the figures of metrics.json and run.json."""

import json
import logging
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HTTPError
from transformers import AutoConfig

from smsa.data.labels import LABELS
from smsa.data.normaliser import has_normaliser
from smsa.errors import UserError
from smsa.models.bundled import BUNDLED, find_bundled

logger = logging.getLogger(__name__)

CARD = "README.md"
# With this line a card is written anew when the model changes or gets another name; without it, it is its owner's.
OURS = "<!-- Written by smsa, which keeps it up to date. Take this line away and it is yours. -->"
_SCORES = {"accuracy": "Accuracy", "f1": "Macro F1", "recall": "Macro recall", "precision": "Macro precision"}
_SPLITS = {"valid": "validation", "test": "test"}  # ours and the Hub's
_ADDITIONS = {  # what a card names beside the data: in English, in Indonesian
    "ema_decay": ("EMA of the weights", "EMA bobot"),
    "rdrop_alpha": ("R-Drop", "R-Drop"),
    "class_weights": ("class weights", "bobot kelas"),
    "label_smoothing_factor": ("label smoothing", "label smoothing"),
    "freeze_embeddings": ("frozen embeddings", "embedding yang dibekukan"),
    "freeze_layers": ("frozen layers", "lapisan yang dibekukan"),
}


def describe_base(model_name_or_path: str) -> dict[str, str | None]:
    """Return what a card says of the base model.

    Returns:
        `kind`: `scratch`, `bundled`, `folder` or `hub`; `name`: that on the Hub, or of the folder without its
        path; `license`: what the base model's own card states, smsa's for `scratch`, None where no card states one
        or none can be fetched, which is logged.
    """
    if model_name_or_path == "scratch":
        return {"kind": "scratch", "name": "scratch", "license": "apache-2.0"}
    folder = Path(find_bundled(model_name_or_path))
    kind, name, card = "hub", model_name_or_path, model_name_or_path
    if model_name_or_path in BUNDLED:
        kind, card = "bundled", folder / CARD
    elif folder.is_dir():
        kind, name, card = "folder", folder.resolve().name, folder / CARD
    try:
        stated = _stated_licence(ModelCard.load(card, ignore_metadata_errors=True).content)
    except (OSError, HTTPError, ValueError, yaml.YAMLError) as error:  # no card, no network, or one of another kind
        logger.info("The card of %s cannot be read, so that the model's own will state no licence: %r", name, error)
        stated = None
    return {"kind": kind, "name": name, "license": stated}


def read_card(folder: str | Path) -> str | None:
    """Return the card of a model folder as it stands there; None if there is none."""
    path = Path(folder) / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def is_renewable(folder: str | Path) -> bool:
    """Return whether `render_card` may replace a folder's card: smsa wrote it here, and its owner left it so."""
    return OURS in (read_card(folder) or "") and (Path(folder) / "run.json").is_file()


def render_card(folder: str | Path, name: str, before: str | None = None, origins: str | None = None) -> str:
    """Render the card of a finished run, from its metrics.json, run.json and the model's own files.

    Args:
        folder: what scripts/finetune.py or scripts/pretrain.py has left.
        name: what loads the model: its name on the Hub, or the path of its folder.
        before: the card that it replaces; the licence in its metadata stays.
        origins: of an encoder, where its texts come from and under which licences, as Markdown.

    Returns:
        Markdown, after metadata in the Hub's format, model-index included.

    Raises:
        OSError: if a file is missing.
        UserError: if a file is not what a finished run of this version leaves.
    """
    folder = Path(folder)
    try:
        metrics, run = (json.loads((folder / file).read_bytes()) for file in ("metrics.json", "run.json"))
        licence = _stated_licence(before) if before else None
        collect = _encoder_values if "held_out" in metrics else _classifier_values
        template, metadata, values = collect(folder, Path(name).name, metrics, run, licence)
        card = ModelCard.from_template(
            ModelCardData(**metadata),
            template_path=str(Path(__file__).with_name(template)),
            **_shared_values(metrics, run),
            **values,
            name=name,
            title=Path(name).name,
            origins=origins,
            ours=OURS,
        )
    except (ValueError, KeyError, TypeError, AttributeError, jinja2.TemplateError) as error:
        raise UserError(
            f"metrics.json or run.json of {folder} is not what a finished run leaves, so that there is no card to "
            f"write ({error!r}). Without run.json, the command of the run with --resume auto writes them anew."
        ) from error
    return f"{card.content}\n"  # Jinja drops the last line break of a template


def _shared_values(metrics: dict, run: dict) -> dict:
    """Return what both templates say of a run. What is missing raises KeyError: Jinja would print nothing for it."""
    minutes, seconds = divmod(round(run["train_runtime_seconds"]), 60)
    hardware, base = run["hardware"], run["base_model"]
    return {
        "epoch": f"{metrics['epoch']:g}",
        "seed": run["seed"],
        "world_size": run["world_size"],
        "n_parameters": f"{run['n_parameters']:,}",
        "precision": run["precision_in_effect"],
        "place": ", ".join(hardware["gpus"]) or f"{hardware['cpu']}, {hardware['n_threads']} threads",
        "duration": f"{minutes} min {seconds} s",
        "base": {"kind": base["kind"], "name": base["name"], "license": base["license"]},
        "commit": run["model_commit"],
        # Without a path of the machine.
        "settings": run["settings"] | {"model_name_or_path": base["name"]},
        "versions": {library: version for library, version in run["versions"].items() if version},
        "percent": lambda value: f"{100 * value:.1f}",
        "count": lambda value: f"{value:,}",
        "cell": lambda value: " ".join(str(value).split()).replace("|", r"\|"),
    }


def _classifier_values(
    folder: Path, title: str, metrics: dict, run: dict, licence: str | None
) -> tuple[str, dict, dict]:
    """Return template, metadata and values of a classifier's card."""
    base, data, settings = run["base_model"], run["data"], run["settings"]
    splits = [split for split in _SPLITS if split in metrics]
    names = {split: f"SmSA {split}" if data[split]["is_smsa"] else Path(data[split]["file"]).name for split in data}
    hub_data = {"dataset_type": "indonlp/indonlu", "dataset_name": "SmSA (IndoNLU)", "dataset_config": "smsa"}
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Sentiment analysis",
            **(hub_data if data[split]["is_smsa"] else {"dataset_type": "own", "dataset_name": names[split]}),
            dataset_split=_SPLITS[split],
            metric_type=score,
            metric_name=score_title,
            metric_value=metrics[split][score],
        )
        for split in splits
        for score, score_title in _SCORES.items()
    ]
    # A model that learned from its owner's texts only is under the licence that the owner gives it.
    is_owners = base["kind"] == "scratch" and not data["train"]["is_smsa"]
    metadata = {
        "language": "id",
        "license": licence or (None if is_owners else base["license"]),
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["sentiment-analysis", "indonesian", "smsa"],
        "base_model": base["name"] if base["kind"] == "hub" else None,
        "datasets": ["indonlp/indonlu"] if data["train"]["is_smsa"] else None,
        "metrics": list(_SCORES),
        "model_name": title,
        "eval_results": results,
    }
    last = metrics[splits[-1]]  # of two splits, the one by which the epoch was not chosen
    values = {
        "labels": run["labels"],
        "scores": {split: metrics[split] for split in splits},
        "score_titles": {score: f"{score_title[0].lower()}{score_title[1:]}" for score, score_title in _SCORES.items()},
        "data": data,
        "data_names": names,
        "last": splits[-1],
        "weakest": min(run["labels"], key=lambda label: last[f"f1_{label}"]),
        "absent": [label for label in run["labels"] if not last[f"n_{label}"]],
        "is_best_epoch": settings["load_best_model_at_end"],
        "max_length": settings["max_length"],
        "additions": [(o, *_ADDITIONS[o]) for o in _ADDITIONS if settings.get(o) not in (None, 0, "none")],
        "examples": [
            (answer["text"], answer["label"], f"{answer['score']:.3f}", person if f"p_{person}" in answer else "")
            for answer, person in zip(metrics["examples"], LABELS, strict=True)
        ],
        "temperature": json.loads((folder / "config.json").read_bytes()).get("smsa_temperature"),
        "is_normalised_since": has_normaliser(folder) and not run.get("normalised", False),
    }
    return "classifier_card.md.jinja", metadata, values


def _encoder_values(folder: Path, title: str, metrics: dict, run: dict, licence: str | None) -> tuple[str, dict, dict]:
    """Return template, metadata and values of the card of a pre-trained encoder."""
    base, held_out = run["base_model"], metrics["held_out"]
    config = AutoConfig.from_pretrained(folder)  # architectures have names of their own for depth and width
    metadata = {
        "language": "id",
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "model_name": title,
        "tags": ["indonesian", "smsa"],
        "base_model": base["name"] if base["kind"] == "hub" else None,
    }
    values = {
        "config": config,
        "tokens_seen": f"{metrics['tokens_seen']:,}",
        "masked_accuracy": f"{100 * held_out['masked_accuracy']:.1f}",
        "loss": f"{held_out['loss']:.3f}",
        "held_out": f"{100 * run['settings']['held_out']:g}",
        "sources": [
            (Path(source).name, f"{data['n_texts']:,}", f"{data['weight']:g}", data["sha256"])
            for source, data in run["data"].items()
        ],
    }
    return "encoder_card.md.jinja", metadata, values


def _stated_licence(card: str) -> str | None:
    """Return the licence in the metadata of a card; None where it states none, or cannot be read."""
    try:
        stated = ModelCard(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):
        return None
    return stated if isinstance(stated, str) else None
