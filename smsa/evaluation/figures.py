"""Pictures of a report and of a run; on white, so that dark pages show them, too."""

import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

N_TELLING = 10  # texts in a bin, below which its share is mostly chance
PICTURES = ("scores.png", "confusion.png", "reliability.png")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for the colour-blind, too
MARKERS = "osD^vP"


def draw_report(report: dict, folder: Path) -> list[str]:
    """Draw `PICTURES` of what report.json holds into a folder; return their names, none without matplotlib."""
    try:
        figures = [draw_metrics(report), draw_confusion(report), draw_reliability(report)]
    except ImportError:
        logger.warning("%s were not drawn: pip install -e '.[plots]' brings matplotlib.", ", ".join(PICTURES))
        return []
    for name, figure in zip(PICTURES, figures, strict=True):
        figure.savefig(folder / name, dpi=150)
    return list(PICTURES)


def _new_figure(width: float, height: float):
    from matplotlib.figure import Figure  # only some have it

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def draw_metrics(report: dict):
    """Macro F1 and the F1 of each label, a dot and its interval for each system."""
    labels = list(report["data"]["labels"])
    rows = ["macro", *labels]
    n_systems = len(report["systems"])
    figure = _new_figure(7, 1.2 + 0.32 * len(rows) * (n_systems + 0.8))
    axes = figure.subplots()
    for k, system in enumerate(report["systems"]):
        bounded = [system["metrics"]["f1"], *(system["labels"][label]["f1"] for label in labels)]
        values = np.array([100 * f1["value"] for f1 in bounded])
        ends = np.array([[100 * f1["low"], 100 * f1["high"]] for f1 in bounded]).T  # (2, n_rows)
        heights = np.arange(len(rows)) + (k - (n_systems - 1) / 2) * 0.8 / n_systems
        axes.errorbar(
            values, heights, xerr=np.abs(ends - values), fmt=MARKERS[k % len(MARKERS)], markersize=5, capsize=3,
            color=COLORS[k % len(COLORS)], label=system["name"],
        )  # fmt: skip
        for value, height, end in zip(values, heights, ends[1], strict=True):
            axes.annotate(
                f"{value:.1f}", (max(end, value), height), (5, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_yticks(range(len(rows)), ["all (macro)", *labels])
    axes.invert_yaxis()
    axes.set(xlabel="F1, %, with its 95 % interval")
    axes.margins(x=0.12)
    axes.set_xlim(left=max(axes.get_xlim()[0], -3))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if n_systems > 1:
        figure.legend(frameon=False, loc="outside upper center", ncols=min(n_systems, 3))
    return figure


def draw_confusion(report: dict):
    """Counts, and shares of the gold label, for each system."""
    labels, systems = list(report["data"]["labels"]), report["systems"]
    n_columns = 2 if len(systems) == 4 else min(len(systems), 3)
    n_rows = math.ceil(len(systems) / n_columns)
    figure = _new_figure(3.9 * n_columns + 0.4, 3.7 * n_rows)
    panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axes, system in zip(panels, systems, strict=False):
        confusion = np.array(system["confusion"])
        shares = confusion / np.maximum(confusion.sum(-1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(*confusion.shape):
            color = "white" if shares[i, j] > 0.55 else "#222222"
            axes.text(
                j, i, f"{confusion[i, j]:,}\n{shares[i, j]:.0%}", ha="center", va="center", color=color, fontsize=10
            )
        axes.set_xticks(range(len(labels)), labels)
        axes.set_yticks(range(len(labels)), labels, rotation=90, va="center")
        axes.set(xlabel="Predicted", ylabel="Gold", title=system["name"] if len(systems) > 1 else None)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    for axes in panels[len(systems) :]:
        axes.set_visible(False)
    return figure


def draw_reliability(report: dict):
    """Accuracy by confidence, the area of a mark showing how many texts stand behind it; those of few are faint."""
    figure = _new_figure(5.2, 5.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1, label="perfectly calibrated")
    for k, system in enumerate(report["systems"]):
        bins = system["calibration"]["bins"]
        sizes = np.array([bin_["n"] for bin_ in bins])
        error = 100 * system["calibration"]["expected_calibration_error"]  # in points
        x, y = [bin_["confidence"] for bin_ in bins], [bin_["accuracy"] for bin_ in bins]
        many = sizes >= N_TELLING
        axes.plot(np.array(x)[many], np.array(y)[many], color=COLORS[k % len(COLORS)], linewidth=1, alpha=0.6)
        axes.scatter(
            x, y, s=20 + 180 * sizes / sizes.max(), marker=MARKERS[k % len(MARKERS)], edgecolor="white", clip_on=False,
            color=[(COLORS[k % len(COLORS)], 0.8 if enough else 0.25) for enough in many],
            label=f"{system['name']}: calibration error {error:.1f}",
        )  # fmt: skip
    axes.set(
        xlabel="Confidence (larger marks: more texts)",
        ylabel="Accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.02),
    )
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(frameon=False, loc="outside upper left", fontsize=8, ncols=2)
    for k, handle in enumerate(legend.legend_handles[1:]):
        handle.set(sizes=[36], facecolor=COLORS[k % len(COLORS)])
    return figure


def draw_history(history: pd.DataFrame, kept_epoch: int, path: str | Path) -> None:
    """Draw loss, macro F1 (the kept epoch marked) and learning rate as a PNG; without matplotlib, log a warning.

    Args:
        history: a row an epoch, with the columns of history.csv.
        kept_epoch: the epoch whose model was kept.
    """
    try:
        figure = _new_figure(11, 3.4)
    except ImportError:
        logger.warning("%s was not drawn: pip install -e '.[plots]' brings matplotlib.", path)
        return
    losses, f1, rates = figure.subplots(1, 3)
    for axes, metric, title in ((losses, "loss", "Cross entropy"), (f1, "f1", "Macro F1")):
        for split, color, marker in (("train", COLORS[0], "o"), ("valid", COLORS[1], "s")):
            seen = history.dropna(subset=[f"{split}_{metric}"])
            axes.plot(seen["epoch"], seen[f"{split}_{metric}"], color=color, marker=marker, markersize=4, label=split)
        axes.set(title=title)
        axes.legend(frameon=False)
    for kept_f1 in history.loc[history["epoch"] == kept_epoch, "valid_f1"].dropna():
        f1.annotate(
            f"kept: {kept_f1:.3f}", (kept_epoch, kept_f1), (0, 6), textcoords="offset points", ha="center",
            color=COLORS[1],
        )  # fmt: skip
    rates.plot(history["epoch"], history["learning_rate"], color="#444444", marker="o", markersize=4)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rates.set(title="Learning rate")
    for axes in (losses, f1, rates):
        axes.set(xlabel="Epoch")
        axes.margins(y=0.15)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_ylim(bottom=0)
    rates.set_ylim(bottom=0)
    figure.savefig(path, dpi=150)
