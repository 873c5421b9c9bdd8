"""Fine-tune an Indonesian encoder on SmSA, keep the epoch that is best on valid, score it and leave a model folder.

accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/indonlu.yaml

Without a recipe, every option has the value of recipes/indonlu.yaml.
"""

import logging
import os

import datasets
import transformers

from smsa.arguments import (
    FINETUNE_OPTIONS,
    DataArguments,
    ModelArguments,
    SentimentTrainingArguments,
    parse_arguments,
)
from smsa.data import encode_splits, find_files, load_splits
from smsa.hardware import end_process
from smsa.model import choose_labels, freeze_layers, load_model
from smsa.report import label_table, require_empty, write_run
from smsa.trainer import SentimentTrainer

IS_MAIN = int(os.environ.get("RANK", 0)) == 0  # of the processes of a launch

logger = logging.getLogger("smsa.finetune")


def main(model_args: ModelArguments, data_args: DataArguments, training_args: SentimentTrainingArguments) -> None:
    """Run the whole recipe; every process of a launch calls it.

    Raises:
        SystemExit: with status 1 and the reason, if the data, the model or the output folder cannot be used.
    """
    try:
        trainer, splits, files = prepare(model_args, data_args, training_args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}" if IS_MAIN else 1) from error
    trainer.train()
    metrics = write_run(trainer, splits, files, (model_args, data_args, training_args))
    for split in [split for split in ("valid", "test") if split in metrics]:
        logger.info("%s, epoch %d\n%s", split, metrics["epoch"], label_table(metrics[split], trainer.labels))
    logger.info("The model is in %s", training_args.output_dir)


def prepare(model_args, data_args, training_args) -> tuple[SentimentTrainer, datasets.DatasetDict, dict]:
    """Get the trainer, the encoded splits and the file of each; nothing is written yet."""
    require_empty(training_args.output_dir)
    with training_args.main_process_first(local=False, desc="finding the data"):  # a download is shared
        files = find_files(data_args.data_dir, data_args.train_file, data_args.valid_file, data_args.test_file)
    name, revision = model_args.model_name_or_path, model_args.model_revision
    labels = choose_labels(data_args.labels, name, revision)
    splits = load_splits(files, labels, data_args.text_column, data_args.label_column)

    transformers.set_seed(training_args.seed)  # the head is drawn at random
    model, tokenizer = load_model(name, labels, revision, train_texts=splits["train"]["text"])
    freeze_layers(model, model_args.freeze_embeddings, model_args.freeze_layers)
    splits = encode_splits(splits, tokenizer, data_args.max_length)
    trainer = SentimentTrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["valid"],
        processing_class=tokenizer,
    )
    return trainer, splits, files


def set_up_logging() -> None:
    """Log on the main process of a launch only; the libraries speak up for errors."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("smsa").setLevel(logging.INFO if IS_MAIN else logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not IS_MAIN:
        datasets.disable_progress_bars()


if __name__ == "__main__":
    set_up_logging()
    main(*parse_arguments(FINETUNE_OPTIONS, description=__doc__.split("\n")[0]))
    end_process()
