"""report.json -> report.md."""

import re
from pathlib import Path

from smsa.evaluation.markdown import POINT_INTERVALS, table, with_interval
from smsa.evaluation.statistics import SCORES

CHARS_SHOWN = 200  # of the text of a mistake


def render(report: dict, pictures: list[str]) -> str:
    """Get the report as Markdown; fractions become per cent."""
    data = report["data"]
    counts = ", ".join(f"{n:,} {label}" for label, n in data["labels"].items())
    absent = [label for label, n in data["labels"].items() if not n]
    note = f" The macro scores count {', '.join(absent)}, which no text has, as 0." if absent else ""
    lines = [
        f"# How good on {Path(data['file']).name}",
        "",
        f"{data['n_texts']:,} texts ({counts}). In brackets: 95 % intervals, by stratified bootstrap. "
        f"{POINT_INTERVALS}{note}",
        "",
    ]
    titles = ["", "accuracy", "macro F1", "macro recall", "macro precision", "calibration error"]
    rows = [
        [system["name"], *(with_interval(**system["scores"][score]) for score in SCORES)]
        + [f"{100 * system['calibration']['expected_calibration_error']:.1f}"]
        for system in report["systems"]
    ]
    lines += table(titles, rows)
    if "temperature" in report:
        lines += ["", f"Calibrated by a temperature of {report['temperature']:.3f}, fitted on these same texts."]
    rows = [
        [system["name"], *(with_interval(**system["labels"][label]["f1"]) for label in data["labels"])]
        for system in report["systems"]
    ]
    lines += ["", "F1 by label:", "", *table(["", *data["labels"]], rows)]
    for system in report["systems"]:
        titles = ["", "texts", "precision", "recall", "F1", *(f"given {label}" for label in data["labels"])]
        rows = [
            [label, f"{scores['n']:,}", f"{100 * scores['precision']:.1f}", f"{100 * scores['recall']:.1f}"]
            + [with_interval(**scores["f1"]), *(f"{n:,}" for n in given)]
            for (label, scores), given in zip(system["labels"].items(), system["confusion"], strict=True)
        ]
        lines += ["", f"By gold label, {system['name']}:", "", *table(titles, rows)]
    if report["comparisons"]:
        lines += ["", "## Side by side", ""]
        for compared in report["comparisons"]:
            split = compared["mcnemar"]
            lines.append(
                f"- {compared['sentence']} {compared['a']} alone is right on {split['only_a_right']:,} texts, "
                f"{compared['b']} alone on {split['only_b_right']:,} (accuracy by McNemar's exact test: "
                f"p = {split['p_value']:.2g})."
            )
    lines += [
        "",
        "## Macro F1 by kind of text",
        "",
        "`in SmSA's style`: in lower case, with punctuation apart; `raw`: all others. The macro F1 of a kind is over "
        "the labels that its texts have, which are all unless a number stands here.",
        "",
    ]
    slices = report["systems"][0]["slices"]
    sizes = [
        f"{part['n']:,}"
        + f", {part['n_labels']} of {len(data['labels'])} labels" * (part["n_labels"] < len(data["labels"]))
        for part in slices.values()
    ]
    rows = [
        [system["name"], *(with_interval(**part["f1"]) for part in system["slices"].values())]
        for system in report["systems"]
    ]
    lines += table(["", *slices], [["texts", *sizes], *rows])
    if "robustness" in report["systems"][0]:
        rows = [
            [system["name"], *(f"{100 * f1:.1f}" for f1 in system["robustness"].values())]
            for system in report["systems"]
        ]
        lines += ["", "## Macro F1 of the same texts as people write them", ""]
        lines += table(["", *report["systems"][0]["robustness"]], rows)
    lines += ["", "## The tutorial's opening sentences", ""]
    for answers in zip(*(system["opening_sentences"] for system in report["systems"]), strict=True):
        lines += [f"> {answers[0]['text']}", ""]
        for system, answer in zip(report["systems"], answers, strict=True):
            is_wrong = answer["gold"] in answer["probabilities"] and answer["label"] != answer["gold"]
            verdict = f" (a person would say {answer['gold']})" if is_wrong else ""
            share = 100 * answer["probabilities"][answer["label"]]
            lines.append(f"- {system['name']}: {answer['label']}, {share:.0f} %{verdict}")
        lines.append("")
    lines += [f"![{picture.removesuffix('.png')}]({picture})" for picture in pictures]
    for system in report["systems"]:
        lines += ["", f"## The most confident mistakes of {system['name']}", ""]
        for mistake in system["mistakes"]:
            lines.append(
                f"- {mistake['file']}:{mistake['line']}: gold {mistake['gold']}, given {mistake['label']} "
                f"({100 * mistake['score']:.0f} %): {_shorten(mistake['text'])}"
            )
        if not system["mistakes"]:
            lines.append("None.")
    return "\n".join(lines) + "\n"


def _shorten(text: str) -> str:
    """One line that Markdown leaves alone."""
    line = re.sub(r"([\\`*_<>|\[\]#])", r"\\\1", " ".join(text.split()))
    return line if len(line) <= CHARS_SHOWN else f"{line[:CHARS_SHOWN]}..."
