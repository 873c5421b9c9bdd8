"""Judge a model by a labelled file: scores with intervals, per-label tables, calibration, mistakes, pictures.

python scripts/eval.py --model runs/indonlu --data data/smsa/test_preprocess.tsv --output report
python scripts/eval.py --compare runs/indonlu runs/tfidf --data data/smsa/test_preprocess.tsv --output report
"""

import logging
import os

from smsa.cli import parse, set_up_logging
from smsa.errors import UserError
from smsa.evaluation.arguments import EvaluationArguments
from smsa.evaluation.calibration import (
    require_model_folder,
    require_unseen,
    store_normaliser,
    store_temperature,
)
from smsa.evaluation.report import (
    LabelledFile,
    judge,
    judge_calibrated,
    measure_robustness,
    require_report_folder,
    write_report,
)
from smsa.evaluation.statistics import fit_temperature
from smsa.evaluation.systems import (
    load_normalised,
    load_system,
    name_labels,
    read_label_map,
)
from smsa.inference.arguments import EngineArguments
from smsa.models.bundled import find_bundled
from smsa.training.results import update_card

logger = logging.getLogger("smsa.score")


def main(args: EvaluationArguments, engine_args: EngineArguments) -> dict:
    """Judge, write the report, and log the scores; get the content of report.json.

    Raises:
        SystemExit: with status 1 and the reason, if a system, the file or the output cannot be used; then no report is
            written.
    """
    try:
        report = judge_all(args, engine_args)
    except (ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from error
    for judged in report["systems"]:
        logger.info("%s", describe(judged))
        if "robustness" in judged:
            by_kind = ", ".join(f"{kind} {100 * f1:.1f}" for kind, f1 in judged["robustness"].items())
            logger.info("%s, macro F1 as people write: %s", judged["name"], by_kind)
    if args.calibrate:
        before, after = (100 * judged["calibration"]["expected_calibration_error"] for judged in report["systems"])
        temperature = report["temperature"]
        logger.info("Temperature %.3f: calibration error %.1f points before, %.1f now", temperature, before, after)
        if after >= before:
            logger.warning("It did not get less on this file: were there enough texts? The loss did.")
    if args.calibrate or args.normalise:
        logger.info("%s has been changed", args.model)
    for compared in report["comparisons"]:
        logger.info("%s", compared["sentence"])
    logger.info("The report is in %s", os.path.join(args.output, "report.md"))
    return report


def judge_all(args: EvaluationArguments, engine_args: EngineArguments) -> dict:
    """Judge the systems that are asked for, write the report, and change the model where that is asked for, too.

    Returns:
        The content of report.json.

    Raises:
        ValueError, OSError, FloatingPointError: if a system, the file or the output cannot be used.
    """
    require_report_folder(args.output)
    names = name_systems(args.compare or [args.model])
    if args.calibrate or args.normalise:
        require_model_folder(args.model)
    engine = vars(engine_args)
    revision = args.model_revision if args.model else None
    systems = {name: load_system(path, revision, **engine) for name, path in names.items()}
    first, system = next(iter(systems.items()))
    if args.normalise:
        systems[f"{first} (normalised)"] = load_normalised(args.model, **engine)
    label_names = read_label_map(args.label_map)
    if label_names and not any(label_names.keys() & set(system.labels) for system in systems.values()):
        listed = "; ".join(f"{name} has {', '.join(system.labels)}" for name, system in systems.items())
        raise UserError(
            f"--label_map {args.label_map!r} names no label of a system ({listed}): write a system's label, =, and "
            "what the file calls it."
        )
    labels = name_labels(first, system.labels, label_names)
    data = LabelledFile.read(args.data, labels, args.text_column, args.label_column, args.train_file)
    if args.calibrate:
        require_unseen(args.model, data.path)
    judgements = [judge(name, system, data, label_names, args.seed) for name, system in systems.items()]
    if args.robustness or args.normalise:
        for judged, system in zip(judgements, systems.values(), strict=True):
            judged["robustness"] = measure_robustness(judged, system, data, label_names, args.seed)
    temperature = None
    if args.calibrate:
        temperature = fit_temperature(data.gold, judgements[0]["probabilities"])
        judgements.append(judge_calibrated(f"{first} (calibrated)", judgements[0], data, temperature, args.seed))
    report = write_report(data, judgements, args.output, args.seed, temperature)
    if args.calibrate:  # not before the report is safe: it alone knows the scores of the model as it was
        store_temperature(args.model, temperature)
    if args.normalise:
        store_normaliser(args.model)
    if args.calibrate or args.normalise:
        update_card(args.model)
    return report


def name_systems(paths: list[str]) -> dict[str, str]:
    """Get a short name for each path, its last part where that tells them apart.

    Raises:
        ValueError: if a system is given twice.
    """
    if len({os.path.abspath(find_bundled(path)) for path in paths}) < len(paths):
        raise UserError("--compare: a system is given twice.")
    short = [os.path.basename(os.path.normpath(path)) for path in paths]
    return dict(zip(short if len(set(short)) == len(paths) else paths, paths, strict=True))


def describe(judged: dict) -> str:
    """Get the line that says how good a system is."""
    f1, accuracy = judged["scores"]["f1"], judged["scores"]["accuracy"]
    by_label = ", ".join(f"{label} {100 * scores['f1']['value']:.1f}" for label, scores in judged["labels"].items())
    ends = f"{100 * f1['low']:.1f} to {100 * f1['high']:.1f}"
    return (
        f"{judged['name']}: macro F1 {100 * f1['value']:.2f} ({ends}), accuracy {100 * accuracy['value']:.2f}; "
        f"F1 of {by_label}"
    )


if __name__ == "__main__":
    set_up_logging()
    main(*parse(EvaluationArguments, EngineArguments, description=__doc__.split("\n")[0]))
