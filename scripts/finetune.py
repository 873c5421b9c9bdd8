"""Fine-tune an Indonesian encoder on SmSA, keep the epoch that is best on valid, evaluate it and leave a model folder.

accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/indonlu.yaml
accelerate launch --config_file accelerate_config.yaml scripts/finetune.py recipes/indonlu.yaml --seeds 1 2 3

Without a recipe, every option has the value of recipes/indonlu.yaml.
"""

import copy
import logging
from pathlib import Path

import pandas as pd
from sklearn.metrics import classification_report
from transformers import set_seed
from transformers.trainer_utils import rotate_checkpoints

from smsa.cli import exit_on_error, parse
from smsa.data.datasets import SMSA_SHA256, DataArguments, encode_splits, load_splits, sort_by_length, write_rejects
from smsa.data.labels import EXAMPLES
from smsa.files import hash_file, naming, staged, write_json
from smsa.models.loading import choose_labels, freeze_layers, load_model
from smsa.runtime import on_main, rank, set_up_process
from smsa.sharing.card import describe_base, publish_run
from smsa.sharing.hub import push, require_access
from smsa.training.arguments import ModelArguments, SentimentTrainingArguments, describe_settings
from smsa.training.checkpointing import describe_run, find_start, sole_run
from smsa.training.metrics import collect_metrics, history_table, predict_examples, write_predictions, write_seeds
from smsa.training.trainer import SentimentTrainer

logger = logging.getLogger("smsa.finetune")


def main(model_args: ModelArguments, data_args: DataArguments, training_args: SentimentTrainingArguments) -> None:
    """Run the recipe, once for each seed, and push the model if asked to; every rank calls it."""
    set_up_process()
    hub_id, private = training_args.hub_model_id, training_args.hub_private_repo
    if training_args.pushes_to_hub:
        on_main(lambda: require_access(hub_id, private))
    for seed in training_args.seeds or [training_args.seed]:
        args = copy.copy(training_args)
        if training_args.seeds:
            args.seeds, args.seed, args.output_dir = None, seed, str(Path(args.output_dir, f"seed-{seed}"))
        with sole_run(Path(args.output_dir), resume=args.resume is not None):
            finetune(model_args, data_args, args)
    if training_args.seeds and rank() == 0:
        summary = write_seeds(training_args.output_dir, training_args.seeds)
        of_valid = pd.DataFrame({name: summary[name]["valid"] for name in ("mean", "std")})
        logger.info("valid, %d seeds\n%s", len(training_args.seeds), of_valid.to_string(float_format="{:.4f}".format))
    if training_args.pushes_to_hub and rank() == 0:
        logger.info("On the Hub: %s", push(training_args.output_dir, hub_id, private, training_args.hub_revision))


def finetune(model_args: ModelArguments, data_args: DataArguments, training_args: SentimentTrainingArguments) -> None:
    """Train one model, or resume its run, and write all files that README.md lists into its output folder."""
    arguments, output_dir = (model_args, data_args, training_args), Path(training_args.output_dir)
    name, revision = model_args.model_name_or_path, model_args.model_revision

    # Data: files -> rows
    with training_args.main_process_first(local=False, desc="finding the data"):  # all ranks share one download
        files = data_args.find_files()
    labels = choose_labels(data_args.labels, name, revision)
    reading = data_args.reading()
    splits = load_splits(files, labels, **reading)
    data = {}
    for split, path in files.items():
        path = path or files["train"]  # None: valid was split off train
        sha256 = hash_file(path)
        is_smsa = sha256 == SMSA_SHA256[split]
        data[split] = {"file": str(path), "sha256": sha256, "n_texts": len(splits[split]), "is_smsa": is_smsa}

    # Where the run stands
    settings = describe_settings(*arguments, hashes={split: data[split]["sha256"] for split in data})
    checkpoint, is_finished = find_start(training_args, settings)
    if is_finished:
        return

    # Model, and rows -> tokens
    set_seed(training_args.seed)  # before the model, whose classification head starts at random
    model, tokenizer = load_model(name, labels, revision, train_texts=splits["train"]["text"])
    freeze_layers(model, model_args.freeze_embeddings, model_args.freeze_layers, model_args.freeze_matrices)
    splits = encode_splits(splits, tokenizer, model_args.max_length)
    tokenizer.model_max_length = model_args.max_length  # saved with the model, for inference

    # Train
    trainer = SentimentTrainer(
        model=model,
        args=training_args,
        train_dataset=splits["train"],
        eval_dataset=sort_by_length(splits["valid"]),  # for each epoch; predictions below keep the file's order
        processing_class=tokenizer,
        settings=settings,
    )
    trainer.train(resume_from_checkpoint=checkpoint)

    # Evaluate
    of_split = [split for split in ("valid", "test") if split in splits]
    outputs = {split: trainer.predict(splits[split], metric_key_prefix=split) for split in of_split}
    if rank():
        return
    metrics = collect_metrics(trainer, outputs, labels)
    metrics["examples"] = predict_examples(trainer.model, tokenizer, EXAMPLES)

    # Save: the files appear all together, run.json last
    with naming(output_dir), staged(output_dir) as staging:
        trainer.save_model(staging)
        for split, output in outputs.items():
            path = staging / f"predictions_{split}.csv"
            predictions = write_predictions(output, splits[split]["text"][:], labels, path)
            if split == "test":  # the benchmark's file
                predictions["label"].rename_axis("index").to_csv(staging / "submission.csv")
        write_json(metrics, staging / "metrics.json")
        history_table(trainer.state.log_history).to_csv(staging / "history.csv", index=False)
        write_rejects(reading["rejects"], staging)
        record = describe_run(trainer, arguments)
        record |= {"labels": labels, "base_model": describe_base(name), "data": data}
        publish_run(staging, output_dir, record)
    # keep the newest checkpoint, from which the run can be lengthened, and the best one
    rotate_checkpoints(str(output_dir), 1, trainer.state.best_model_checkpoint)
    for split, output in outputs.items():
        gold, predicted = output.label_ids, output.predictions.argmax(-1)
        options = {"labels": range(len(labels)), "target_names": labels, "digits": 4, "zero_division": 0}
        report = classification_report(gold, predicted, **options)
        logger.info("%s, epoch %d\n%s", split, metrics["epoch"], report)
    logger.info("The model is in %s, whose README.md says how to use it.", output_dir)


if __name__ == "__main__":
    with exit_on_error():
        main(*parse(ModelArguments, DataArguments, SentimentTrainingArguments, description=__doc__.split("\n")[0]))
