"""Label every text of some files with a fine-tuned model; stopped, the same command resumes where it was.

python scripts/predict.py --model runs/indonlu --input reviews.csv --output predicted.csv
accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4 scripts/predict.py \\
    --model runs/indonlu --input 'exports/*.parquet' --output predicted.parquet
"""

import logging
import os
import signal

from smsa.cli import exit_on_error, parse, set_up_logging
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.engine import EngineArguments
from smsa.inference.job import PredictionArguments, predict_files
from smsa.runtime import end_with_launcher

logger = logging.getLogger("smsa.predict")


def main(args: PredictionArguments, engine_args: EngineArguments) -> None:
    """Label all, and log a line for each output; every rank of a launch calls it."""
    options = {name: value for name, value in vars(args).items() if not name.startswith("model")}

    def load() -> SentimentClassifier:
        return SentimentClassifier.from_pretrained(args.model, args.model_revision, **vars(engine_args))

    for summary in predict_files(load, **options):
        n_labelled = max(1, summary["predicted"])
        shares = ", ".join(f"{label} {n / n_labelled:.1%}" for label, n in summary["labels"].items())
        counts = ", ".join(f"{summary[name]:,} {name}" for name in ("empty", "truncated", "rejected"))
        pace = f"{summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
        logger.info("%s rows: %s; %s; %s", f"{summary['read']:,}", shares, counts, pace)


def interrupt(signum: int, frame: object) -> None:
    """Answer SIGTERM as Ctrl-C, so that what stdin brought does not stay in the folder for temporary files."""
    raise KeyboardInterrupt(signum)


if __name__ == "__main__":
    set_up_logging()
    signal.signal(signal.SIGTERM, interrupt)
    end_with_launcher("SIGKILL")  # shards are whole or absent
    try:
        with exit_on_error():
            main(*parse(PredictionArguments, EngineArguments, description=__doc__.split("\n")[0]))
    except KeyboardInterrupt as asked:
        logger.error("Stopped; what was finished of an output file is kept, and the same command resumes from it.")
        os._exit(128 + (asked.args[0] if asked.args else signal.SIGINT))  # at once, whatever chunk is being computed
