"""Make a baseline that an encoder is measured against, and evaluate it on valid: keyword, tfidf or majority.

python scripts/baseline.py --kind tfidf --output runs/tfidf
"""

import logging
from pathlib import Path

from smsa.cli import exit_on_error, parse
from smsa.data.datasets import DataArguments, load_splits
from smsa.data.labels import LABELS, parse_labels
from smsa.errors import UserError
from smsa.evaluation.baselines import BASELINES, DESCRIPTION, BaselineArguments, save_baseline
from smsa.evaluation.report import LabelledFile, evaluate, log_report, write_report
from smsa.evaluation.systems import System
from smsa.files import publish, require_empty, staged

logger = logging.getLogger("smsa.baseline")


def main(args: BaselineArguments, data_args: DataArguments) -> dict:
    """Fit the baseline to train, save it with its report on valid, and return the content of report.json."""
    output = Path(args.output)
    require_empty(output, "choose another --output")
    if data_args.test_file:
        raise UserError(f"leave --test_file out, and evaluate on it with scripts/eval.py --model {output} --data ...")
    labels = parse_labels(data_args.labels) if data_args.labels else LABELS
    files = data_args.find_files()
    reading = data_args.reading()
    splits = load_splits({split: files[split] for split in ("train", "valid")}, labels, **reading)
    train, rows = splits["train"], splits["valid"].to_pandas()
    baseline = BASELINES[args.kind].fit(train["text"][:], train["label"][:], labels)

    rows["seen"] = rows["text"].isin(train["text"][:])
    data = LabelledFile(files["valid"] or files["train"], labels, rows, tuple(reading["rejects"] or ()))
    report = evaluate([System(args.kind, args.kind, baseline.labels, baseline.predict)], data)
    write_report(report, output, rejects=data.rejects)
    with staged(output) as staging:
        save_baseline(baseline, staging)
        publish(staging, output, last=DESCRIPTION)

    log_report(report)
    logger.info("The baseline and its report are in %s", output)
    return report


if __name__ == "__main__":
    with exit_on_error():
        main(*parse(BaselineArguments, DataArguments, description=__doc__.split("\n")[0]))
