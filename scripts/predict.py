"""Label every text in files with a fine-tuned model. After a stop, the same command resumes.

python scripts/predict.py --model runs/indonlu --input reviews.csv --output predicted.csv
accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4 scripts/predict.py \\
    --model runs/indonlu --input 'exports/*.parquet' --output predicted.parquet
python scripts/predict.py --model runs/indonlu --input 's3://bucket/reviews/*.parquet' --output s3://bucket/predicted \\
    --engine ray --ray_address auto
"""

import logging
import os
import signal
from functools import partial

from smsa.cli import exit_on_error, parse
from smsa.errors import UserError
from smsa.inference.classifier import SentimentClassifier
from smsa.inference.engine import EngineArguments
from smsa.inference.job import PredictionArguments, predict_files
from smsa.runtime import end_with_launcher

logger = logging.getLogger("smsa.predict")


def main(args: PredictionArguments, engine_args: EngineArguments) -> None:
    """Label all texts, and log a line for each output; every rank of a launch calls it."""
    if args.engine == "ray":
        try:
            from smsa.inference.on_ray import predict_on_ray
        except ModuleNotFoundError as error:
            raise UserError(f"--engine ray needs {error.name}: pip install -e '.[ray]'.") from error
        return report(predict_on_ray(args, engine_args))
    load = partial(SentimentClassifier.from_pretrained, args.model, args.model_revision, **vars(engine_args))
    for summary in predict_files(load, **vars(args)):
        report(summary)


def report(summary: dict) -> None:
    """Log what an output holds."""
    n_labelled = max(1, sum(summary["labels"].values()))
    shares = ", ".join(f"{label} {n / n_labelled:.1%}" for label, n in summary["labels"].items())
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("empty", "truncated", "rejected") if name in summary)
    pace = f"{summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
    logger.info("%s rows: %s; %s; %s", f"{summary['read']:,}", shares, counts, pace)


def interrupt(signum: int, frame: object) -> None:
    """Treat SIGTERM like Ctrl-C, so that the copy of stdin in the folder for temporary files is removed."""
    raise KeyboardInterrupt(signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    end_with_launcher("SIGKILL")  # safe at any time: shards are whole or absent
    args, engine_args = parse(PredictionArguments, EngineArguments, description=__doc__.split("\n")[0])
    with exit_on_error():
        try:
            main(args, engine_args)
        except KeyboardInterrupt as asked:
            way_out = "the finished part of an output file is kept, and the same command resumes from it"
            if args.engine == "ray":
                way_out = "the output has only some of the rows: remove it before the next run"
            logger.error("Stopped; %s.", way_out)
            os._exit(128 + (asked.args[0] if asked.args else signal.SIGINT))  # do not wait for the current chunk
