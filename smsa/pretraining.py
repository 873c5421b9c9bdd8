"""Masked-language-model pre-training: a new encoder or one that is there, masks, and the Trainer that goes with it."""

import logging
import math
import time
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, normalizers
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import (
    AddedToken,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    EvalPrediction,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    get_wsd_schedule,
)
from transformers.trainer_callback import TrainerState

from smsa.arguments import PretrainingArguments
from smsa.callbacks import REFRESH_SECONDS, epoch_number
from smsa.corpus import Source, is_held_out, pack, repeat
from smsa.kernels import use_quick_attention
from smsa.normaliser import set_normaliser, shorten_drawn_out
from smsa.resumable import IGNORED, ResumableTrainer
from smsa.scratch import embed_pieces, set_word_vectors, train_vocabulary

logger = logging.getLogger(__name__)

CLITIC = r"(?<=\p{L}) +nya\b"  # SmSA and some of the corpora write it apart; joined, both styles are the same pieces
FINE_TUNING_DROPOUT = 0.2  # of a new encoder; 0.1 was as good for an earlier one
VECTOR_SCALE = 2.0  # better than 1 and as good as 4 after 400 steps: docs/mini.md


def build_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn the word pieces of a new encoder; equal texts give equal ones.

    Its normaliser lower-cases, writes drawn-out letters once, and attaches the clitic `nya`, so that a text is the same
    pieces however these were written.
    """
    normaliser = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True),
            shorten_drawn_out(),
            normalizers.Replace(Regex(CLITIC), "nya"),
        ]
    )
    vocabulary = train_vocabulary([normaliser.normalize_str(text) for text in texts], vocab_size)
    names = ["input_ids", "attention_mask"]
    return set_normaliser(BertTokenizer(vocab=vocabulary, model_max_length=512, model_input_names=names), normaliser)


def build_encoder(
    sequences: list[list[int]], tokenizer: PreTrainedTokenizerBase, hidden_size: int, **shape: int
) -> ModernBertForMaskedLM:
    """Build a ModernBERT whose word vectors and bias start from counts in the texts, all else at random; seed first.

    Args:
        sequences: word pieces of each training text, without special tokens.
        tokenizer: whose pieces they are.
        hidden_size, **shape: widths and number of layers, by their names in `ModernBertConfig`.
    """
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        max_position_embeddings=tokenizer.model_max_length,
        layer_types=["full_attention"] * shape["num_hidden_layers"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
        classifier_pooling="mean",
        norm_bias=True,  # without biases a few numbers of each state grow huge in their place: docs/mini.md
        mlp_bias=True,
        attention_bias=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        **shape,
    )
    model = ModernBertForMaskedLM(config)
    set_word_vectors(model, embed_pieces(sequences, config.vocab_size, config.hidden_size), VECTOR_SCALE)
    counts = np.bincount(np.concatenate(sequences), minlength=config.vocab_size) + 1
    model.get_output_embeddings().bias.data.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    # Without dropout so far, which would slow learning. Fine-tuning builds its modules from these.
    for name in ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"):
        setattr(config, name, FINE_TUNING_DROPOUT)
    logger.info("Encoder: new, %s parameters, %s word pieces", f"{model.num_parameters():,}", f"{len(tokenizer):,}")
    return model


@dataclass
class Rows:
    """What pre-training reads.

    Attributes:
        sequences: word pieces of each text that an epoch sees, without special tokens.
        rows, held_out_rows: the same and the texts that are held out, packed, shape (n_rows, max_length).
    """

    sequences: list[list[int]]
    rows: np.ndarray
    held_out_rows: np.ndarray


def encode_sources(
    sources: list[Source], tokenizer: PreTrainedTokenizerBase, max_length: int, held_out: float, seed: int
) -> Rows:
    """Tokenise and pack texts, each as often as its source weighs, and those that are held out.

    Raises:
        ValueError: if the tokenizer lacks [CLS], [SEP] or [MASK], or its encoder cannot read `max_length` pieces; if
            either part does not fill a row.
    """
    lacking = [name for name in ("cls", "sep", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if lacking:
        raise ValueError(
            f"the tokenizer has no {', '.join(lacking)} token, without which no rows can be made or masked."
        )
    if max_length > tokenizer.model_max_length:
        raise ValueError(f"--max_length is {max_length}, but this encoder reads {tokenizer.model_max_length} pieces.")

    def tokenise(texts: list[str]) -> list[list[int]]:
        quick = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        sequences = tokenizer(texts, add_special_tokens=False, **quick)["input_ids"] if texts else []
        return [sequence for sequence in sequences if sequence]

    sequences, judged = [], []
    for source in sources:
        seen = tokenise([text for text in source.texts if not is_held_out(text, held_out)])
        sequences += [seen[i] for i in repeat(len(seen), source.weight, seed)]
        judged += tokenise([text for text in source.texts if is_held_out(text, held_out)])
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    rows = pack(sequences, max_length, *special, seed, "to train on")
    held_out_rows = pack(judged, max_length, *special, seed, "held out (more with a higher --held_out)")
    n_texts, n_rows, n_judged = (f"{len(part):,}" for part in (sequences, rows, judged))
    logger.info("An epoch: %s texts, %s rows of %d pieces; held out: %s texts", n_texts, n_rows, max_length, n_judged)
    return Rows(sequences, rows, held_out_rows)


def add_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str]) -> int:
    """Make word pieces of their own of words that have been cut into several; get how many these were.

    The rows of all pieces that were there stay as they are. That of a new one, in the output too, is the mean of those
    of the pieces that it was cut into, as it is in the middle of a text; pieces that are not known do not count.

    Raises:
        ValueError: for a word with a space in it.
    """
    bad = [word for word in words if len(word.split()) != 1]
    if bad:
        raise ValueError(f"--add_tokens: {bad[0]!r} is not a single word; give one a line.")
    normaliser = tokenizer.backend_tokenizer.normalizer
    words = list(dict.fromkeys(normaliser.normalize_str(word) if normaliser else word for word in words))
    pieces = {}
    for word in words:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        known = [i for i in ids if i != tokenizer.unk_token_id]
        if len(ids) > 1 or not known:
            pieces[word] = known or ids
    # lstrip: a byte-level tokenizer would leave a piece of its own for the space
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=True, normalized=True) for word in pieces])
    new_ids = {word: tokenizer.convert_tokens_to_ids(word) for word in pieces}
    before = _rows_of_words(model)
    n_rows = max(len(tokenizer), model.config.vocab_size)  # some encoders have rows to spare
    model.resize_token_embeddings(n_rows, mean_resizing=False)
    with torch.no_grad():
        for after, rows in zip(_rows_of_words(model), before, strict=True):
            for word, ids in pieces.items():
                after[new_ids[word]] = rows[ids].mean(0)
    return len(pieces)


def _rows_of_words(model: PreTrainedModel) -> list[torch.Tensor]:
    """What has a row for each word piece: the input's weight, and weight (maybe the same) and bias of the output."""
    outputs = model.get_output_embeddings()
    return [model.get_input_embeddings().weight, outputs.weight] + ([] if outputs.bias is None else [outputs.bias])


class Masking(DataCollatorForLanguageModeling):
    """Masks other pieces of a row in each epoch, and the same ones whenever that epoch is trained again.

    The draws for a row depend on seed, epoch and the row alone: on no batch, process or checkpoint, nor how far ahead
    batches were prepared. Rows that have labels already are left as they are.

    Args:
        tokenizer: whose pieces the rows are.
        mlm_probability: share of the pieces that is masked: 8 of 10 by [MASK], 1 by any piece, 1 stays.
        mask_seed: of the draws.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, mask_seed: int):
        super().__init__(tokenizer, mlm_probability=mlm_probability)
        self.mask_seed, self.epoch = mask_seed, 0
        self.special_ids = torch.tensor(tokenizer.all_special_ids)

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        rows = torch.tensor([example["input_ids"] for example in examples])
        if "labels" in examples[0]:
            return {"input_ids": rows, "labels": torch.tensor([example["labels"] for example in examples])}
        epoch = crc32(f"{self.mask_seed} {self.epoch}".encode())
        special = torch.isin(rows, self.special_ids)
        masked = []
        for row, is_special in zip(rows, special, strict=True):
            self.generator = torch.Generator().manual_seed(crc32(row.numpy().tobytes(), epoch))  # it takes 32 bits
            masked.append(self.torch_mask_tokens(row.clone()[None], special_tokens_mask=is_special[None]))
        input_ids, labels = (torch.cat(parts) for parts in zip(*masked, strict=True))
        return {"input_ids": input_ids, "labels": labels}


def hold_out(rows: np.ndarray, masking: Masking) -> Dataset:
    """Mask rows once and for all: every epoch is judged by the same masks."""
    batch = masking([{"input_ids": row} for row in rows.tolist()])
    return Dataset.from_dict({name: values.numpy() for name, values in batch.items()})


def score_masked(prediction: EvalPrediction) -> dict[str, float]:
    """Get the mean cross entropy (`loss`, in nats) of the masked pieces, and the share of them that are predicted.

    Args:
        prediction: for each row, summed loss and hits of its masked pieces, shape (n_rows, 2), and how many these are.
    """
    loss_sum, n_hits = prediction.predictions.astype(np.float64).sum(0)
    n_masked = max(prediction.label_ids.sum(), 1)
    return {"loss": loss_sum / n_masked, "masked_accuracy": n_hits / n_masked}


class MaskedTrainer(ResumableTrainer):
    """Trainer of a masked language model: AdamW, warm-up, a constant rate, and a linear decay at the end.

    Logits are computed for masked pieces alone, a fifth of them, which would be half of the work of a small model.

    Args:
        model: a masked language model.
        args: recipe and hardware.
        rows, held_out_rows: word pieces to train on and to judge by, as `pack` returns them.
        **kwargs: passed to ResumableTrainer; `processing_class`, the tokenizer, is needed.
    """

    loss_is_scaled_for_ga = True  # by compute_loss: see SentimentTrainer

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainingArguments,
        processing_class: PreTrainedTokenizerBase,
        rows: np.ndarray,
        held_out_rows: np.ndarray,
        **kwargs,
    ):
        masking = Masking(processing_class, args.mlm_probability, args.seed)
        self.rows_shape = rows.shape
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
            eval_dataset=hold_out(held_out_rows, masking),
            data_collator=masking,
            compute_metrics=score_masked,
            **kwargs,
        )
        use_quick_attention(self.model, args.device.type)
        if args.compile_encoder:
            self.model.base_model.compile(dynamic=False)  # each shape anew: a step, an epoch's last, two of evaluation
        self.model_accepts_loss_kwargs = True  # count the masked pieces of each step for compute_loss
        self.is_masked: torch.Tensor | None = None  # of the batch that the model reads, shape (batch, length)
        _head_of(self.model).register_forward_pre_hook(self._keep_masked)
        self.add_callback(EachEpochItsMasks(masking))
        self.late_loss = torch.zeros((), device=args.device)  # mean over the last hundred batches or so, for the eye
        self.add_callback(PretrainingProgress(self))

    def require_resumable(self, state: TrainerState) -> None:
        """Refuse as `ResumableTrainer` does, and to change the length of a run whose rate is falling already.

        Args:
            state: of the checkpoint.

        Raises:
            ValueError: with the reason.
        """
        super().require_resumable(state)
        _, steps_an_epoch = self._count_steps()
        n_steps = self.args.max_steps if self.args.max_steps > 0 else math.ceil(
            self.args.num_train_epochs * steps_an_epoch
        )  # fmt: skip
        falls_from = min(n_steps, state.max_steps) - self.args.decay_steps
        if n_steps != state.max_steps and state.global_step > falls_from:
            raise ValueError(
                f"The newest checkpoint was taken after step {state.global_step:,}, and the rate falls from step "
                f"{max(falls_from, 0):,} on: --num_train_epochs can no longer change. Start a new run from the encoder."
            )

    def count_tokens(self) -> int:
        """Get how many word pieces have been seen so far, each time that they were; special tokens count, too."""
        rows_a_step, steps_an_epoch = self._count_steps()
        n_rows, length = self.rows_shape
        whole, rest = divmod(self.state.global_step, steps_an_epoch)
        return (whole * n_rows + rest * rows_a_step) * length

    def _count_steps(self) -> tuple[int, int]:
        """Rows of a step, over all processes, and steps of an epoch."""
        rows_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return rows_a_step, math.ceil(self.rows_shape[0] / rows_a_step)

    def _keep_masked(self, head: nn.Module, states: tuple) -> tuple:
        return (states[0][self.is_masked], *states[1:])  # (n_masked, hidden_size)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Get warm-up, constant rate and decay over the steps of the run."""
        if self.lr_scheduler is None:
            warmup, decay = self.args.warmup_steps, self.args.decay_steps
            if warmup + decay > num_training_steps:  # both get shorter
                warmup = math.ceil(num_training_steps * warmup / (warmup + decay))
                decay = num_training_steps - warmup
            self.lr_scheduler = get_wsd_schedule(
                optimizer or self.optimizer, warmup, decay, num_training_steps, decay_type="linear"
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _predict_masked(self, model: nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Get logits of shape (n_masked, vocab_size), the pieces that were masked, and where, (batch, length)."""
        labels = inputs.pop("labels")
        self.is_masked = labels != IGNORED
        return model(**inputs).logits, labels[self.is_masked], self.is_masked

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Get the share of this batch in the mean cross entropy over the masked pieces of one step.

        Args:
            num_items_in_batch: masked pieces of the step, over accumulated batches and processes.
        """
        logits, pieces, _ = self._predict_masked(model, inputs)
        loss = functional.cross_entropy(logits.float(), pieces, reduction="sum")
        n_masked = num_items_in_batch.clamp(min=1)  # a tensor: looking at it would make a GPU wait
        return loss / n_masked * self.accelerator.num_processes  # DDP takes the mean over processes

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Train on one batch, and keep its loss for the progress bar."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        of_batch = loss.detach() * self.args.gradient_accumulation_steps
        self.late_loss = torch.where(self.late_loss > 0, torch.lerp(self.late_loss, of_batch, 0.02), of_batch)
        return loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None) -> tuple:
        """Get what `score_masked` takes: logits of all pieces would not fit into memory."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits, pieces, is_masked = self._predict_masked(model, inputs)
        losses = functional.cross_entropy(logits.float(), pieces, reduction="none")
        scores = losses.new_zeros(*is_masked.shape, 2)
        scores[is_masked] = torch.stack([losses, (logits.argmax(-1) == pieces).float()], -1)
        return None, scores.sum(1), is_masked.sum(1)


def _head_of(model: PreTrainedModel) -> nn.Module:
    """The module that takes the last hidden states: the one after the encoder, in all of transformers' models."""
    modules = list(model.children())
    return modules[modules.index(model.base_model) + 1]


class EachEpochItsMasks(TrainerCallback):
    """Tells the collator which epoch it is, also after a resume."""

    def __init__(self, masking: Masking):
        self.masking = masking

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.masking.epoch = int(state.epoch or 0)


class PretrainingProgress(TrainerCallback):
    """A progress bar over all steps with the loss of late, and a line an epoch, on the main process only."""

    def __init__(self, trainer: MaskedTrainer):
        self.trainer = trainer
        self.bar, self.refreshed_at = None, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="Pre-training", unit="step", dynamic_ncols=True
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(1)
            if time.monotonic() - self.refreshed_at > REFRESH_SECONDS:
                self.refreshed_at = time.monotonic()
                self.bar.set_postfix_str(f"LOSS:{self.trainer.late_loss.item():.4f}", refresh=False)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.bar is not None:
            scores = f"LOSS:{metrics['eval_loss']:.4f} ACC:{metrics['eval_masked_accuracy']:.4f}"
            tqdm.write(f"(Epoch {epoch_number(state.epoch)}) HELD OUT {scores}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
