"""Write a copy of a model whose probabilities fit how often it is right on a labelled file; labels stay as they are.

python scripts/calibrate.py --model runs/indonlu --data data/smsa/valid_preprocess.tsv --output runs/calibrated
"""

import logging
from pathlib import Path

from smsa.cli import exit_on_error, parse, set_up_logging
from smsa.evaluation.arguments import CalibrationArguments, LabelledFileArguments
from smsa.evaluation.calibration import (
    copy_model,
    find_model_folder,
    load_normalised,
    require_unseen,
    store_normaliser,
    store_temperature,
    update_examples,
)
from smsa.evaluation.report import LabelledFile
from smsa.evaluation.statistics import (
    apply_temperature,
    count_confusion,
    fit_temperature,
    measure_calibration,
    score_confusion,
)
from smsa.evaluation.systems import load_systems, wrap_classifier
from smsa.files import publish, staged
from smsa.inference.arguments import EngineArguments
from smsa.sharing.card import CARD, is_renewable, read_card, render_card
from smsa.training.checkpointing import require_empty

logger = logging.getLogger("smsa.calibrate")


def main(args: CalibrationArguments, data_args: LabelledFileArguments, engine_args: EngineArguments) -> float:
    """Fit a temperature, write the calibrated model, and log what it gains; return the temperature."""
    source, output, engine = find_model_folder(args.model), Path(args.output), vars(engine_args)
    require_empty(output, "choose another --output")
    (system,) = load_systems([args.model], label_map=data_args.label_map, **engine)
    data = LabelledFile.read(data_args.data, system.labels, data_args.text_column, data_args.label_column)
    require_unseen(source, data.path)

    before = uncalibrated = system.predict(data.texts, data.labels)
    if args.normalise_elongated:
        uncalibrated = wrap_classifier(system.name, load_normalised(source, **engine)).label_texts(data.texts)
    temperature = fit_temperature(data.gold, uncalibrated)
    after = apply_temperature(uncalibrated, temperature)

    output.mkdir(parents=True, exist_ok=True)
    with staged(output) as staging:
        copy_model(source, staging)
        if args.normalise_elongated:
            store_normaliser(staging)
        store_temperature(staging, temperature)
        update_examples(staging, **engine)
        if is_renewable(staging):
            (staging / CARD).write_text(render_card(staging, str(output), read_card(staging)), encoding="utf-8")
        publish(staging, output, last="config.json")

    errors = [measure_calibration(data.gold, p)["expected_calibration_error"] for p in (before, after)]
    logger.info(
        "Temperature %.3f: calibration error %.1f points before, %.1f now", temperature, *(100 * e for e in errors)
    )
    if errors[1] >= errors[0]:
        logger.warning("It did not get less on this file: were there enough texts? The loss did.")
    if args.normalise_elongated:
        f1 = [
            score_confusion(count_confusion(data.gold, p.argmax(-1), len(data.labels)))["f1"] for p in (before, after)
        ]
        logger.info("Macro F1 %.2f before, %.2f with elongated letters written once", *(100 * score for score in f1))
    logger.info("The calibrated model is in %s", output)
    return temperature


if __name__ == "__main__":
    set_up_logging()
    with exit_on_error():
        main(*parse(CalibrationArguments, LabelledFileArguments, EngineArguments, description=__doc__.split("\n")[0]))
