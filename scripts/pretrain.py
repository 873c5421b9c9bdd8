"""Pre-train an encoder on plain text, a new one or one that is there, for scripts/finetune.py to take.

accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py --sources reviews.txt --corpus_dir DIR
accelerate launch --config_file accelerate_config.yaml scripts/pretrain.py recipes/pretrain-mini.yaml --corpus_dir DIR
"""

import logging
from pathlib import Path

import transformers

from smsa.files import hash_file
from smsa.models.loading import load_encoder
from smsa.pretraining.arguments import (
    PRETRAIN_OPTIONS,
    SHAPE,
    CorpusArguments,
    EncoderArguments,
    PretrainingArguments,
)
from smsa.pretraining.corpus import (
    Source,
    encode_sources,
    find_judged,
    is_held_out,
    leave_out,
    read_sources,
    read_texts,
)
from smsa.pretraining.encoder import add_words, build_encoder, build_tokenizer
from smsa.pretraining.trainer import MaskedTrainer
from smsa.training.launch import find_checkpoints, run_script, run_whole
from smsa.training.results import write_encoder

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
    folders = (corpus_args.corpus_dir, corpus_args.data_dir)
    with training_args.main_process_first(local=False, desc="finding the texts"):  # a download is shared
        sources = read_sources(corpus_args.sources, *folders)
        judged = find_judged(corpus_args.keep_out or (), *folders)
    if judged:
        leave_out(sources, [text for path in judged.values() for text in read_texts(path)])
    hashes = {source.name: source.sha256 for source in sources}
    hashes |= {f"{name}, kept out": hash_file(path)[0] for name, path in judged.items()}
    words = Path(encoder_args.add_tokens) if encoder_args.add_tokens else None
    if words is not None:
        hashes["the added tokens"] = hash_file(words)[0]

    transformers.set_seed(training_args.seed)
    name, held_out, seed = encoder_args.model_name_or_path, corpus_args.held_out, training_args.seed
    if name == "new":
        texts = [text for source in sources for text in source.texts if not is_held_out(text, held_out)]
        tokenizer = build_tokenizer(texts, encoder_args.vocab_size)
        encoded = encode_sources(sources, tokenizer, corpus_args.max_length, held_out, seed)
        model = build_encoder(encoded.sequences, tokenizer, **{name: getattr(encoder_args, name) for name in SHAPE})
    else:
        model, tokenizer = load_encoder(name, encoder_args.model_revision)
        encoder_args.require_shape_of(model.config)
        if words is not None:
            logger.info("New word pieces: %s", f"{add_words(model, tokenizer, read_texts(words)):,}")
        encoded = encode_sources(sources, tokenizer, corpus_args.max_length, held_out, seed)
    trainer = MaskedTrainer(
        model=model,
        args=training_args,
        processing_class=tokenizer,
        rows=encoded.rows,
        held_out_rows=encoded.held_out_rows,
        checkpoints=find_checkpoints(PRETRAIN_OPTIONS, (encoder_args, corpus_args, training_args), hashes),
    )
    return trainer, sources


if __name__ == "__main__":
    run_script(main, (EncoderArguments, CorpusArguments, PretrainingArguments), __doc__.split("\n")[0])
