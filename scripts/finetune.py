"""Fine-tune an Indonesian encoder on SmSA, keep the epoch that is best on valid, score it and leave a model folder.

accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/indonlu.yaml
accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/indonlu.yaml --seeds 1 2 3

Without a recipe, every option has the value of recipes/indonlu.yaml.
"""

import logging
import shlex

import datasets
import transformers

from smsa.data.arguments import DataArguments
from smsa.data.datasets import encode_splits, find_files, load_splits
from smsa.distributed import is_main, on_first
from smsa.errors import UserError
from smsa.files import hash_file
from smsa.models.loading import choose_labels, freeze_layers, load_model
from smsa.sharing.hub import push, require_access
from smsa.training.arguments import (
    FINETUNE_OPTIONS,
    ModelArguments,
    SentimentTrainingArguments,
)
from smsa.training.launch import find_checkpoints, run_script, run_whole
from smsa.training.results import label_table, write_run
from smsa.training.seeds import run_seeds
from smsa.training.trainer import SentimentTrainer

logger = logging.getLogger("smsa.finetune")


def main(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: SentimentTrainingArguments,
) -> None:
    """Run the recipe, once for each seed, and push what it leaves; every process of a launch calls it.

    Raises:
        SystemExit: with status 1 and the reason, if the Hub cannot be used as asked; and as `run` and `run_seeds`.
    """
    if not training_args.pushes_to_hub:
        if training_args.seeds is None:
            return run(model_args, data_args, training_args)
        return run_seeds(training_args, lambda seed_args: run(model_args, data_args, seed_args))
    name, folder = training_args.hub_model_id, training_args.output_dir
    try:
        if training_args.seeds is not None:
            raise UserError("--seeds leaves several models: choose one, and push it with scripts/push.py.")
        on_first(lambda: require_access(name, bool(training_args.hub_private_repo)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}" if is_main() else 1) from error
    run(model_args, data_args, training_args)
    if is_main():
        try:
            logger.info("It is on the Hub: %s", push(folder, name, bool(training_args.hub_private_repo)))
        except (OSError, ValueError) as error:
            words = ["python", "scripts/push.py", folder, name, *["--private"] * bool(training_args.hub_private_repo)]
            again = shlex.join(words)
            raise SystemExit(f"error: {error}\n{folder} is finished and whole; this pushes it: {again}") from error


def run(model_args: ModelArguments, data_args: DataArguments, training_args: SentimentTrainingArguments) -> None:
    """Run the whole recipe, or what is left of it; every process of a launch calls it.

    Raises:
        SystemExit: as `run_whole`, for the data and the model, too.
    """
    arguments = (model_args, data_args, training_args)

    def finish(trainer, splits, files) -> None:
        metrics = write_run(trainer, splits, files, arguments)
        for split in [split for split in ("valid", "test") if split in metrics]:
            logger.info("%s, epoch %d\n%s", split, metrics["epoch"], label_table(metrics[split], trainer.labels))
        logger.info("The model is in %s", training_args.output_dir)

    run_whole(training_args.output_dir, training_args.resume, lambda: prepare(*arguments), finish)


def prepare(model_args, data_args, training_args) -> tuple[SentimentTrainer, datasets.DatasetDict, dict]:
    """Get the trainer, the encoded splits and the file of each; nothing is written yet."""
    with training_args.main_process_first(local=False, desc="finding the data"):  # a download is shared
        files = find_files(data_args.data_dir, data_args.train_file, data_args.valid_file, data_args.test_file)
    if "test" not in files:
        logger.info("test: there is no file of it, so it will have no scores and no predictions")
    name, revision = model_args.model_name_or_path, model_args.model_revision
    labels = choose_labels(data_args.labels, name, revision)
    splits = load_splits(files, labels, data_args.text_column, data_args.label_column)

    transformers.set_seed(training_args.seed)  # the head is drawn at random
    model, tokenizer = load_model(name, labels, revision, train_texts=splits["train"]["text"])
    freeze_layers(model, model_args.freeze_embeddings, model_args.freeze_layers)
    splits = encode_splits(splits, tokenizer, data_args.max_length)
    hashes = {f"the {split} file": hash_file(path)[0] for split, path in files.items()}
    trainer = SentimentTrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["valid"],
        processing_class=tokenizer,
        checkpoints=find_checkpoints(FINETUNE_OPTIONS, (model_args, data_args, training_args), hashes),
    )
    return trainer, splits, files


if __name__ == "__main__":
    run_script(main, (ModelArguments, DataArguments, SentimentTrainingArguments), __doc__.split("\n")[0])
