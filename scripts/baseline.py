"""Make a baseline that an encoder is measured against, and judge it by valid: keyword, tfidf or majority.

python scripts/baseline.py tfidf --output runs/tfidf
"""

import logging
import sys
from pathlib import Path

from smsa.cli import parse, set_up_logging
from smsa.data.arguments import DataArguments
from smsa.data.datasets import find_files, load_splits
from smsa.data.labels import LABELS, parse_labels
from smsa.evaluation.arguments import BaselineArguments
from smsa.evaluation.baselines import BASELINES, DESCRIPTION
from smsa.evaluation.report import LabelledFile, judge, write_report
from smsa.files import publish, staged
from smsa.training.checkpointing import require_empty

logger = logging.getLogger("smsa.baseline")


def main(kind: str, data_args: DataArguments, args: BaselineArguments) -> dict:
    """Train it on train, save it, and leave its report on valid beside it; get the content of report.json.

    Raises:
        SystemExit: with status 1 and the reason, if the data or the output cannot be used.
    """
    output = Path(args.output)
    try:
        labels = parse_labels(data_args.labels) if data_args.labels else LABELS
        require_empty(output, "choose another --output")
        files = find_files(data_args.data_dir, data_args.train_file, data_args.valid_file)
        splits = load_splits(
            {name: files[name] for name in ("train", "valid")}, labels, data_args.text_column, data_args.label_column
        )
        system = BASELINES[kind].fit(list(splits["train"]["text"]), list(splits["train"]["label"]), labels)
        data = LabelledFile.read(files["valid"], labels, data_args.text_column, data_args.label_column, files["train"])
        judged = judge(kind, system, data, seed=args.seed)
        report = write_report(data, [judged], output, args.seed)
        with staged(output) as staging:
            system.save(staging)
            publish(staging, output, last=DESCRIPTION)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    f1 = report["systems"][0]["scores"]["f1"]
    logger.info(
        "%s: macro F1 %.2f (%.1f to %.1f) on %s", kind, *(100 * f1[end] for end in ("value", "low", "high")), data.path
    )
    logger.info("The baseline and its report are in %s", output)
    return report


if __name__ == "__main__":
    set_up_logging()
    kind, *words = sys.argv[1:] or [""]
    usage = f"%(prog)s {{{','.join(BASELINES)}}} [--option VALUE ...]"
    if kind in BASELINES or kind in ("-h", "--help"):
        words = words if kind in BASELINES else [kind]
        main(
            kind, *parse(DataArguments, BaselineArguments, argv=words, description=__doc__.split("\n")[0], usage=usage)
        )
    else:
        print(f"error: the first word must be one of {', '.join(BASELINES)}, not {kind!r}.", file=sys.stderr)
        sys.exit(2)
