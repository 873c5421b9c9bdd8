"""Pre-train an encoder on plain text, a new one or one that is there, for scripts/finetune.py to take.

accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py --sources reviews.txt --corpus_dir DIR
accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py recipes/pretrain-mini.yaml --corpus_dir DIR
"""

import logging
from pathlib import Path

from smsa.arguments import (  # first: see smsa.LAUNCHER_PID
    PRETRAIN_OPTIONS,
    CorpusArguments,
    EncoderArguments,
    PretrainingArguments,
    describe_settings,
    parse_arguments,
)
from smsa.checkpoints import Checkpoints
from smsa.corpus import Source, is_held_out, pack, read_sources, repeat
from smsa.files import hash_file
from smsa.hardware import describe_environment
from smsa.launch import run_whole, set_up_logging
from smsa.model import load_encoder
from smsa.pretraining import MaskedTrainer, add_words, build_encoder, build_tokenizer
from smsa.processes import STOP, end_process
from smsa.report import write_encoder

import transformers  # isort: skip

logger = logging.getLogger("smsa.pretrain")


def main(encoder_args: EncoderArguments, corpus_args: CorpusArguments, training_args: PretrainingArguments) -> None:
    """Pre-train, or go on; every process of a launch calls it.

    Raises:
        SystemExit: as `run_whole`, for the texts and the encoder, too.
    """
    arguments = (encoder_args, corpus_args, training_args)

    def finish(trainer, sources) -> None:
        metrics = write_encoder(trainer, sources, arguments)
        scores = metrics["held_out"]
        logger.info("Held out: loss %.4f, masked accuracy %.4f", scores["loss"], scores["masked_accuracy"])
        logger.info("The encoder is in %s; fine-tune it with --model_name_or_path.", training_args.output_dir)

    run_whole(training_args.output_dir, training_args.resume, lambda: prepare(*arguments), finish)


def prepare(encoder_args, corpus_args, training_args) -> tuple[MaskedTrainer, list[Source]]:
    """Get the trainer and the sources; nothing is written yet."""
    with training_args.main_process_first(local=False, desc="finding the texts"):  # a download is shared
        sources = read_sources(corpus_args.sources, corpus_args.corpus_dir, corpus_args.data_dir)
    hashes = {source.name: source.sha256 for source in sources}
    if encoder_args.add_tokens:
        hashes["the added tokens"] = hash_file(Path(encoder_args.add_tokens))[0]
    settings = describe_settings(PRETRAIN_OPTIONS, (encoder_args, corpus_args, training_args), hashes)
    transformers.set_seed(training_args.seed)
    model, tokenizer, rows, held_out_rows = encode(encoder_args, corpus_args, sources, training_args.seed)
    trainer = MaskedTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        rows=rows,
        held_out_rows=held_out_rows,
        checkpoints=Checkpoints(
            training_args.output_dir, settings, describe_environment(), PretrainingArguments.changeable
        ),
    )
    return trainer, sources


def encode(encoder_args, corpus_args, sources, seed):
    """Get the model, its tokenizer, and the rows to train on and to judge by."""
    share = corpus_args.held_out
    seen = {source.name: [text for text in source.texts if not is_held_out(text, share)] for source in sources}
    held_out = [text for source in sources for text in source.texts if is_held_out(text, share)]
    name, model = encoder_args.model_name_or_path, None
    if name == "new":
        tokenizer = build_tokenizer([text for texts in seen.values() for text in texts], encoder_args.vocab_size)
    else:
        model, tokenizer = load_encoder(name, encoder_args.model_revision)
    if encoder_args.add_tokens:
        lines = Path(encoder_args.add_tokens).read_text(encoding="utf-8").splitlines()
        n_words = add_words(model, tokenizer, [line.strip() for line in lines if line.strip()])
        logger.info("New word pieces: %s of %s words", f"{n_words:,}", f"{len(lines):,}")

    def cut(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    sequences = []
    for source in sources:
        pieces = cut(seen[source.name])
        sequences += [pieces[i] for i in repeat(len(pieces), source.weight, seed)]
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    rows, held_out_rows = (pack(part, corpus_args.max_length, *special, seed) for part in (sequences, cut(held_out)))
    logger.info("An epoch: %s texts, %s rows of %d word pieces; held out: %s texts", f"{len(sequences):,}",
                f"{len(rows):,}", corpus_args.max_length, f"{len(held_out):,}")  # fmt: skip
    if model is None:
        model = build_encoder(sequences, tokenizer, encoder_args)
    return model, tokenizer, rows, held_out_rows


if __name__ == "__main__":
    STOP.listen()
    set_up_logging()
    try:
        main(*parse_arguments(PRETRAIN_OPTIONS, description=__doc__.split("\n")[0]))
    except SystemExit as ended:
        end_process(ended.code)
    end_process()
