"""Label every text of some files with a fine-tuned model; stopped, the same command goes on where it was.

python scripts/predict.py --model runs/indonlu --input reviews.csv --output scored.csv
accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4 scripts/predict.py \\
    --model runs/indonlu --input 'exports/*.parquet' --output scored.parquet
"""

import logging
import os

from smsa import SentimentClassifier, score_paths
from smsa.arguments import SCORING_OPTIONS, ScoringArguments, parse_arguments  # first: see smsa.LAUNCHER_PID
from smsa.processes import FailedElsewhere, process_rank

import transformers  # isort: skip

IS_MAIN = process_rank() == 0

logger = logging.getLogger("smsa.predict")


def main(args: ScoringArguments) -> None:
    """Score all, and log a line for each output; every process of a launch calls it.

    Raises:
        SystemExit: with status 1 and the reason, if the model, an input or the output cannot be used; with status 130
            after Ctrl-C.
    """
    try:
        classifier = SentimentClassifier.from_pretrained(
            args.model,
            args.model_revision,
            device=args.device,
            precision=args.precision,
            backend=args.backend,
            num_threads=args.num_threads,
            max_length=args.max_length,
        )
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
        where = "" if IS_MAIN else f" (process {os.environ['RANK']})"
        raise SystemExit(f"error{where}: {error}") from error
    except KeyboardInterrupt:
        logger.error("Stopped; the same command goes on from the finished parts.")
        os._exit(130)  # at once: a part in the making is not waited for
    for summary in summaries:
        logger.info(describe(summary))


def describe(summary: dict) -> str:
    """Get the line that says what was done."""
    n_labelled = max(1, sum(summary["labels"].values()))
    shares = ", ".join(f"{label} {n / n_labelled:.1%}" for label, n in summary["labels"].items())
    counts = ", ".join(f"{summary[name]:,} {name}" for name in ("empty", "truncated", "rejected"))
    pace = f"{summary['seconds']:.1f} s, {summary['rows_per_second']:,.0f} rows/s"
    return f"{summary['read']:,} rows: {shares}; {counts}; {pace}"


def set_up_logging() -> None:
    """Log on the main process of a launch only; the libraries speak up for errors."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("smsa").setLevel(logging.INFO if IS_MAIN else logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


if __name__ == "__main__":
    set_up_logging()
    main(*parse_arguments(SCORING_OPTIONS, description=__doc__.split("\n")[0]))
