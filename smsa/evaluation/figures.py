"""Pictures of a report and of a run, on a white background, so that they are readable on dark pages, too."""

import logging
import math
from pathlib import Path
from textwrap import fill  # names of labels and systems may be as long as a sentence or a path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

PICTURES = ("scores.png", "confusion.png", "reliability.png", "history.png")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for the colour-blind, too
MARKERS = "osD^vP"


def draw_report(report: dict, folder: Path, history: Path | None) -> list[str]:
    """Draw report.json, and history.csv if there is one; return the names of the pictures, none without matplotlib."""
    try:
        drawn = [draw_metrics(report), draw_confusion(report), draw_reliability(report)]
        drawn += [draw_history(pd.read_csv(history))] if history else []
    except ImportError:
        logger.warning("%s were not drawn: pip install -e '.[plots]' brings matplotlib.", ", ".join(PICTURES))
        return []
    for name, figure in zip(PICTURES, drawn):
        figure.savefig(folder / name, dpi=150, bbox_inches="tight")
    return list(PICTURES[: len(drawn)])


def _new_figure(width: float, height: float):
    from matplotlib.figure import Figure  # matplotlib is optional

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _style(axes, grid: str = "both", **labels: object) -> None:
    axes.set(**labels)
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _mark(k: int) -> dict[str, str]:
    """Return colour and marker of the k-th system; the seventh has the colour of the first, and another marker."""
    return {"color": COLORS[k % len(COLORS)], "marker": MARKERS[(k + k // len(COLORS)) % len(MARKERS)]}


def draw_metrics(report: dict):
    """Draw macro F1 and the F1 of each label in the file: for each system, a dot and its interval."""
    labels, systems = [label for label, n in report["data"]["labels"].items() if n], report["systems"]
    figure = _new_figure(7, 1.2 + 0.2 * len(systems) + 0.32 * (len(labels) + 1) * (len(systems) + 0.8))
    axes = figure.subplots()
    for k, system in enumerate(systems):
        f1 = 100 * pd.DataFrame([system["metrics"]["f1"], *(system["labels"][label]["f1"] for label in labels)])
        heights = np.arange(len(f1)) + (k - (len(systems) - 1) / 2) * 0.8 / len(systems)
        sides = [(f1["value"] - f1["low"]).abs(), (f1["high"] - f1["value"]).abs()]
        name = fill(system["name"], 60)
        axes.errorbar(f1["value"], heights, xerr=sides, **_mark(k), ls="", ms=5, capsize=3, label=name)
        for value, end, height in zip(f1["value"], f1[["value", "high"]].max(axis=1), heights, strict=True):
            axes.annotate(f"{value:.1f}", (end, height), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(labels) + 1), [fill(label, 20) for label in ("all (macro)", *labels)])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _style(axes, "x", xlabel="F1, %, with its 95 % interval", xlim=(max(axes.get_xlim()[0], -3), None))
    if len(systems) > 1:
        figure.legend(frameon=False, loc="outside upper center")
    return figure


def draw_confusion(report: dict):
    """Draw the confusion matrix of each system: counts, and shares of the gold label."""
    from sklearn.metrics import ConfusionMatrixDisplay  # takes seconds to import

    labels, systems = [fill(label, 20) for label in report["data"]["labels"]], report["systems"]
    n_columns = min(len(systems), 3)
    n_rows = math.ceil(len(systems) / n_columns)
    side = max(3.7, 1.5 + 0.6 * len(labels))  # room for the numbers in each cell
    figure = _new_figure((side + 0.2) * n_columns + 0.4, side * n_rows)
    for k, system in enumerate(systems):
        confusion = np.array(system["confusion"])
        shares = confusion / np.maximum(confusion.sum(-1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(shares, display_labels=labels)
        axes = figure.add_subplot(n_rows, n_columns, k + 1)
        display.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation="vertical")  # so that they never overlap
        for cell, n in np.ndenumerate(confusion):
            display.text_[cell].set_text(f"{n:,}\n{shares[cell]:.0%}")
        axes.set(xlabel="Predicted", ylabel="Gold", title=fill(system["name"], 30))
    return figure


def draw_reliability(report: dict):
    """Draw accuracy by confidence; the area of a mark shows its number of texts, and a line joins marks of many."""
    figure = _new_figure(5.2, 5.2 + 0.2 * len(report["systems"]))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="perfectly calibrated")
    for k, system in enumerate(report["systems"]):
        bins = pd.DataFrame(system["calibration"]["bins"])
        many = bins[bins["n"] >= 10]  # with fewer texts, accuracy is mostly chance
        label = f"{system['name']}: calibration error {100 * system['calibration']['expected_calibration_error']:.1f}"
        axes.plot(many["confidence"], many["accuracy"], **_mark(k), linewidth=1, label=fill(label, 60))
        sizes = 20 + 180 * bins["n"] / bins["n"].max()
        axes.scatter(bins["confidence"], bins["accuracy"], sizes, **_mark(k), alpha=0.4, clip_on=False)
    _style(axes, xlabel="Confidence (larger marks: more texts)", ylabel="Accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_aspect("equal")
    figure.legend(frameon=False, loc="outside upper left", fontsize=8)
    return figure


def draw_history(history: pd.DataFrame):
    """Draw loss, macro F1 and learning rate by epoch."""
    figure = _new_figure(11, 3.4)
    for axes, score in zip(figure.subplots(1, 3), ("loss", "f1", "learning_rate"), strict=True):
        columns = [column for column in history if column.endswith(score)]
        history.plot(x="epoch", y=columns, ax=axes, marker="o", ms=4, clip_on=False, color=COLORS[: len(columns)])
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        _style(axes, xlabel="Epoch", ylim=(0, None))
    return figure
