"""Pre-train an encoder, new or existing, on texts, so that scripts/finetune.py can start from it.

accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py --sources reviews.txt --corpus_dir DIR
accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py recipes/pretrain-mini.yaml --corpus_dir DIR
"""

import logging
from pathlib import Path

from transformers import set_seed
from transformers.trainer_utils import rotate_checkpoints

from smsa.cli import exit_on_error, parse
from smsa.files import hash_file, naming, staged, write_json
from smsa.models.loading import load_encoder
from smsa.pretraining.arguments import CorpusArguments, EncoderArguments, PretrainingArguments
from smsa.pretraining.corpus import decontaminate, encode_sources, is_held_out, read_sources, read_texts
from smsa.pretraining.encoder import add_words, build_encoder, build_tokenizer
from smsa.pretraining.trainer import MaskedTrainer
from smsa.runtime import on_main, rank, set_up_process
from smsa.sharing.card import describe_base, publish_run
from smsa.sharing.hub import push, require_access
from smsa.training.arguments import describe_settings
from smsa.training.checkpointing import describe_run, find_start, sole_run
from smsa.training.metrics import history_table

logger = logging.getLogger("smsa.pretrain")

HISTORY = {
    "learning_rate": "learning_rate",
    "loss": "train_loss",
    "eval_loss": "held_out_loss",
    "eval_masked_accuracy": "held_out_masked_accuracy",
}


def main(encoder_args: EncoderArguments, corpus_args: CorpusArguments, training_args: PretrainingArguments) -> None:
    """Pre-train or resume, write an encoder, and push it if asked to; every rank of a launch calls it."""
    set_up_process()
    hub_id, private = training_args.hub_model_id, training_args.hub_private_repo
    if training_args.pushes_to_hub:
        on_main(lambda: require_access(hub_id, private))
    with sole_run(Path(training_args.output_dir), resume=training_args.resume is not None):
        pretrain(encoder_args, corpus_args, training_args)
    if training_args.pushes_to_hub and rank() == 0:
        logger.info("On the Hub: %s", push(training_args.output_dir, hub_id, private, training_args.hub_revision))


def pretrain(encoder_args: EncoderArguments, corpus_args: CorpusArguments, training_args: PretrainingArguments) -> None:
    """Train one encoder, or resume its run, and write it into its output folder."""
    arguments, output_dir = (encoder_args, corpus_args, training_args), Path(training_args.output_dir)
    name, held_out, seed = encoder_args.model_name_or_path, corpus_args.held_out, training_args.seed

    # Texts
    options = {name: getattr(corpus_args, name) for name in ("corpus_dir", "data_dir", "text_column", "sheet")}
    with training_args.main_process_first(local=False, desc="finding the texts"):  # all ranks share one download
        sources = read_sources(corpus_args.sources, **options)
        excluded = read_sources(corpus_args.decontaminate or (), to_exclude=True, **options)
    if excluded:
        decontaminate(sources, [text for source in excluded for text in source.texts])
    words = Path(encoder_args.add_tokens) if encoder_args.add_tokens else None
    hashes = {source.name: source.sha256 for source in sources}
    hashes |= {f"{source.name}, excluded": source.sha256 for source in excluded}
    hashes |= {"the added tokens": hash_file(words)} if words else {}

    # Where the run stands
    settings = describe_settings(*arguments, hashes=hashes)
    checkpoint, is_finished = find_start(training_args, settings)
    if is_finished:
        return

    # Model, and texts -> tokens
    set_seed(seed)
    if name == "new":
        texts = [text for source in sources for text in source.texts if not is_held_out(text, held_out)]
        tokenizer = build_tokenizer(texts)
        model = build_encoder(tokenizer)
    else:
        model, tokenizer = load_encoder(name, encoder_args.model_revision)
    if words is not None:
        logger.info("New tokens: %s", f"{add_words(model, tokenizer, read_texts(words, text_column='column_1')):,}")
    rows, held_out_rows = encode_sources(sources, tokenizer, corpus_args.max_length, held_out, seed)

    # Train and evaluate
    trainer = MaskedTrainer(model, training_args, tokenizer, rows, held_out_rows, settings=settings)
    trainer.train(resume_from_checkpoint=checkpoint)
    scores = trainer.evaluate()
    if rank():
        return
    scores = {score: scores[f"eval_{score}"] for score in ("loss", "masked_accuracy")}
    tokens_seen = round(trainer.state.epoch * rows.size)  # repeated and special ones included
    metrics = {"epoch": trainer.state.epoch, "tokens_seen": tokens_seen, "held_out": scores}

    # Save: the files appear all together, run.json last
    with naming(output_dir), staged(output_dir) as staging:
        trainer.save_model(staging)
        write_json(metrics, staging / "metrics.json")
        history_table(trainer.state.log_history, HISTORY).to_csv(staging / "history.csv", index=False)
        base = {"kind": "new", "name": "new", "license": None} if name == "new" else describe_base(name)
        record = describe_run(trainer, arguments) | {"base_model": base}
        record["data"] = {
            source.name: {"weight": source.weight, "sha256": source.sha256, "n_texts": len(source.texts)}
            for source in sources
        }
        publish_run(staging, output_dir, record)
    # keep the newest checkpoint, from which the run can be lengthened, and the best one if asked to
    rotate_checkpoints(str(output_dir), 1, trainer.state.best_model_checkpoint)
    logger.info("Held out: loss %.4f, masked accuracy %.4f", scores["loss"], scores["masked_accuracy"])
    logger.info("The encoder is in %s, whose README.md has the command that fine-tunes it.", output_dir)


if __name__ == "__main__":
    with exit_on_error():
        main(*parse(EncoderArguments, CorpusArguments, PretrainingArguments, description=__doc__.split("\n")[0]))
