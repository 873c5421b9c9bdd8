"""Evaluate models on a labelled file: metrics with intervals, tables by label, calibration, errors, pictures.

python scripts/eval.py --model runs/indonlu --data data/smsa/test_preprocess.tsv --output report
python scripts/eval.py --compare runs/indonlu runs/tfidf --data data/smsa/test_preprocess.tsv --output report
"""

import logging
from pathlib import Path

from smsa.cli import exit_on_error, parse
from smsa.evaluation.report import LabelledFile, LabelledFileArguments, evaluate, log_report, write_report
from smsa.evaluation.systems import EvaluationArguments, load_systems, was_trained_on
from smsa.inference.engine import EngineArguments
from smsa.models.loading import BUNDLED

logger = logging.getLogger("smsa.eval")


def main(args: EvaluationArguments, data_args: LabelledFileArguments, engine_args: EngineArguments) -> None:
    """Evaluate, write the report, and log the metrics."""
    systems = load_systems(args.compare or [args.model], args.model_revision, data_args.label_map, **vars(engine_args))
    labels = max((system.labels for system in systems), key=len)  # a system of two labels lacks one of the three
    data = LabelledFile.read(data_args.data, labels, args.train_file, **data_args.reading())
    for name in args.compare or [args.model]:
        if was_trained_on(name, data.path):
            logger.warning("%s was trained on %s: it is worse on texts that it has not seen.", name, data.path)
    report = evaluate(systems, data, args.seed, args.robustness)
    history = Path(BUNDLED.get(args.model, args.model), "history.csv") if args.model else None
    write_report(report, args.output, history if history and history.is_file() else None, data.rejects)

    log_report(report)
    logger.info("The report is in %s", Path(args.output, "report.md"))


if __name__ == "__main__":
    with exit_on_error():
        main(*parse(EvaluationArguments, LabelledFileArguments, EngineArguments, description=__doc__.split("\n")[0]))
