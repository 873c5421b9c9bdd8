"""Write a copy of a model with its probabilities calibrated on a labelled file; its labels do not change.

python scripts/calibrate.py --model runs/indonlu --data data/smsa/valid_preprocess.tsv --output runs/calibrated
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from smsa.cli import exit_on_error, parse
from smsa.data.datasets import write_rejects
from smsa.data.labels import EXAMPLES
from smsa.data.normaliser import add_normaliser
from smsa.evaluation.calibration import CalibrationArguments, find_model_folder, store_temperature
from smsa.evaluation.report import LabelledFile, LabelledFileArguments, evaluate, log_report
from smsa.evaluation.statistics import fit_temperature
from smsa.evaluation.systems import load_systems
from smsa.files import publish, require_empty, staged, update_json
from smsa.inference.engine import EngineArguments
from smsa.models.loading import load_classifier, save_tokenizer
from smsa.sharing.card import CARD, is_renewable, render_card
from smsa.training.metrics import predict_examples

logger = logging.getLogger("smsa.calibrate")


def main(args: CalibrationArguments, data_args: LabelledFileArguments, engine_args: EngineArguments) -> None:
    """Fit a temperature, write the calibrated model, and log a report on both."""
    source, output = find_model_folder(args.model, data_args.data), Path(args.output)
    options = {"label_map": data_args.label_map, **vars(engine_args)}
    require_empty(output, "choose another --output")
    (system,) = load_systems([args.model], **options)
    data = LabelledFile.read(data_args.data, system.labels, **data_args.reading())
    output.mkdir(parents=True, exist_ok=True)
    with staged(output) as staging:
        for pattern in ("*.json", "*.safetensors", "*.txt", "*.model", "*.md", "LICENSE*"):  # no checkpoints
            for path in filter(Path.is_file, source.glob(pattern)):
                shutil.copyfile(path, staging / path.name)
        uncalibrated = system
        if args.normalise_elongated:
            save_tokenizer(add_normaliser(load_classifier(staging)[1]), staging)
            update_json(staging / "config.json", smsa_normalised=True)
            (uncalibrated,) = load_systems([str(staging)], **options)
        temperature = fit_temperature(data.gold, uncalibrated.predict(data.texts, data.labels))
        store_temperature(staging, temperature)
        (calibrated,) = load_systems([str(staging)], **options)
        report = evaluate([system, replace(calibrated, name=f"{system.name} (calibrated)")], data)
        if is_renewable(staging):
            update_json(staging / "metrics.json", examples=predict_examples(*load_classifier(staging), EXAMPLES))
            (staging / CARD).write_text(render_card(staging, str(output)), encoding="utf-8")
        write_rejects(data.rejects, staging)
        publish(staging, output, last="config.json")

    logger.info("Temperature %.3f", temperature)
    log_report(report)
    logger.info("The calibrated model is in %s", output)


if __name__ == "__main__":
    with exit_on_error():
        main(*parse(CalibrationArguments, LabelledFileArguments, EngineArguments, description=__doc__.split("\n")[0]))
