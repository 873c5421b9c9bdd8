"""The same run by several seeds: each in a folder of its own, and seeds.json over all of them."""

import copy
import gc
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from smsa.distributed import failed_together, is_main, on_first
from smsa.files import dump_json, write_whole
from smsa.training.arguments import SentimentTrainingArguments
from smsa.training.checkpointing import require_empty
from smsa.training.settings import OtherSettingsError
from smsa.training.signals import Stopped

logger = logging.getLogger(__name__)


def run_seeds(args: SentimentTrainingArguments, run: Callable[[SentimentTrainingArguments], None]) -> None:
    """Call `run` with the arguments of each of `args.seeds`, and write seeds.json; a seed may fail, in all processes.

    Raises:
        SystemExit: with status 1 and the reason, if a seed has failed, when the others are done; and as `run` where
            nothing more can be done, or a seed was trained by other settings: no mean is taken over two recipes.
    """
    output_dir = Path(args.output_dir)
    folders = {seed: f"seed-{seed}" for seed in args.seeds}
    failures = {}
    try:
        if args.resume is None:
            on_first(lambda: require_empty(output_dir))
    except OSError as error:
        raise SystemExit(f"error: {error}" if is_main() else 1) from error
    # Those that were begun before come first: one that cannot be gone on with stops all before a new one is trained.
    for seed, folder in on_first(lambda: sorted(folders.items(), key=lambda item: not (output_dir / item[1]).is_dir())):
        logger.info("Seed %d, %d of %d", seed, list(folders).index(seed) + 1, len(folders))
        seed_args = copy.copy(args)
        seed_args.seeds, seed_args.seed, seed_args.output_dir = None, seed, str(output_dir / folder)
        try:
            run(seed_args)
        except SystemExit as ended:
            if isinstance(ended, Stopped) or args.world_size > 1 and not failed_together(ended):
                raise  # in the second case the others may wait for this process
            if on_first(lambda ended=ended: isinstance(ended.__cause__, OtherSettingsError)):
                raise
            if isinstance(ended.code, str):
                logger.error("Seed %d: %s", seed, ended.code)
                failures[seed] = ended.code.removeprefix("error: ")
            else:
                failures[seed] = "another process of its launch has failed"
        except Exception as error:  # of this run alone, for instance too little memory for one of its batches
            if args.world_size > 1:
                raise  # the others would wait for this process
            logger.exception("Seed %d", seed)
            failures[seed] = repr(error)
        gc.collect()  # the model and its optimiser go before the next ones come
    if len(failures) < len(folders):
        try:
            summary = on_first(lambda: write_seeds(output_dir, folders, failures))
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {error}" if is_main() else 1) from error
        logger.info("valid, in per cent; F1 of each label\n%s", seeds_table(summary))
        logger.info("All scores are in %s", output_dir / "seeds.json")
    if failures:
        failed = f"seed{'s' * (len(failures) > 1)} {', '.join(map(str, failures))}"
        reason = f"error: {failed} failed; the same command with --resume auto tries again."
        raise SystemExit(reason if is_main() else 1)


def write_seeds(output_dir: str | Path, folders: dict[int, str], failures: dict[int, str]) -> dict:
    """Write seeds.json: the scores of each finished run of a recipe, their mean and their standard deviation.

    Args:
        output_dir: where it goes.
        folders: the folder of each seed within it, finished or not.
        failures: why a seed has no run.

    Returns:
        What seeds.json holds: `runs` and `failed` by seed; `mean` and `std` by split and score. `std` divides by n - 1,
        and is null for one run.
    """
    output_dir = Path(output_dir)
    runs = {
        seed: {"folder": folder} | json.loads((output_dir / folder / "metrics.json").read_bytes())
        for seed, folder in folders.items()
        if seed not in failures
    }
    summary = {"runs": runs, "failed": failures, "mean": {}, "std": {}}
    for split in ("valid", "test"):
        table = pd.DataFrame([run[split] for run in runs.values() if split in run])
        if len(table):
            table = table[[name for name in table.select_dtypes("number") if not name.startswith("n_")]]
            summary["mean"][split] = table.mean().to_dict()
            summary["std"][split] = table.std().round(12).to_dict() if len(table) > 1 else dict.fromkeys(table)
    path = output_dir / "seeds.json"
    if path.is_file():
        left_out = [seed for seed in json.loads(path.read_bytes())["runs"] if int(seed) not in folders]
        if left_out:
            logger.warning("%s is no longer about seed %s: name all in one --seeds.", path, ", ".join(left_out))
    write_whole(path, dump_json(summary))
    return summary


def seeds_table(summary: dict) -> str:
    """Get macro F1, accuracy and the F1 of each label on valid, by seed, with mean and standard deviation, as text."""
    of_labels = [score for score in summary["mean"]["valid"] if score.startswith("f1_")]
    scores = ("f1", "accuracy", *of_labels)
    titles = ("macro F1", "accuracy", *(score.removeprefix("f1_") for score in of_labels))
    lines = [f"{'seed':8}" + "".join(f"{title:>12}" for title in titles)]
    rows = {str(seed): run["valid"] for seed, run in summary["runs"].items()}
    if len(rows) > 1:
        rows |= {"mean": summary["mean"]["valid"], "std": summary["std"]["valid"]}
    for name, row in rows.items():
        lines.append(f"{name:8}" + "".join(f"{100 * row[score]:>12.2f}" for score in scores))
    return "\n".join(lines)
