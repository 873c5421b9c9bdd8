"""Label every text of some files with a fine-tuned model; stopped, the same command goes on where it was.

python scripts/predict.py --model runs/indonlu --input reviews.csv --output scored.csv
accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4 scripts/predict.py \\
    --model runs/indonlu --input 'exports/*.parquet' --output scored.parquet
"""

import logging
import os
import signal

from smsa import SentimentClassifier, score_paths
from smsa.cli import parse, set_up_logging
from smsa.distributed import FailedElsewhere, is_main, process_rank
from smsa.inference.arguments import EngineArguments, PredictionArguments

logger = logging.getLogger("smsa.predict")


def main(args: PredictionArguments, engine_args: EngineArguments) -> None:
    """Score all, and log a line for each output; every process of a launch calls it.

    Raises:
        SystemExit: with status 1 and the reason, if the model, an input or the output cannot be used; with status 130
            after Ctrl-C, 143 after SIGTERM where `stop` answers it.
    """
    if "-" in args.input:
        signal.signal(signal.SIGTERM, stop)
    try:
        classifier = SentimentClassifier.from_pretrained(args.model, args.model_revision, **vars(engine_args))
        summaries = score_paths(
            classifier,
            args.input,
            args.output,
            args.input_format,
            args.format,
            text_column=args.text_column,
            labels_only=args.labels_only,
            explain=args.explain,
            prefix=args.prefix,
            on_bad_row=args.on_bad_row,
        )
    except FailedElsewhere as error:
        raise SystemExit(1) from error
    except (ValueError, OSError, FloatingPointError) as error:
        where = "" if is_main() else f" (process {process_rank()})"
        raise SystemExit(f"error{where}: {error}") from error
    except KeyboardInterrupt as asked:
        kept = (
            "nothing has been written"
            if "-" in [*args.input, args.output]
            else "the same command goes on from the finished parts"
        )
        logger.error("Stopped; %s.", kept)
        os._exit(128 + (asked.args[0] if asked.args else signal.SIGINT))  # at once, whatever part is in the making
    for summary in summaries:
        logger.info(describe(summary))


def stop(signum: int, frame: object) -> None:
    """Answer SIGTERM as Ctrl-C: what stdin brought must not stay behind in the folder for temporary files."""
    raise KeyboardInterrupt(signum)


def describe(summary: dict) -> str:
    """Get the line that says what was done."""
    n_labelled = max(1, sum(summary["labels"].values()))
    shares = ", ".join(f"{label} {n / n_labelled:.1%}" for label, n in summary["labels"].items())
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("empty", "truncated", "rejected"))
    pace = f"{summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
    return f"{summary['read']:,} rows: {shares}; {counts}; {pace}"


if __name__ == "__main__":
    set_up_logging()
    main(*parse(PredictionArguments, EngineArguments, description=__doc__.split("\n")[0]))
