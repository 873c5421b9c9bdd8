"""Masked-language-model pre-training: a new encoder or one that is there, masks, and the Trainer that goes with it."""

import logging
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

from smsa.arguments import EncoderArguments, PretrainingArguments
from smsa.callbacks import epoch_number
from smsa.kernels import use_quick_attention
from smsa.normaliser import DRAWN_OUT, set_normaliser
from smsa.resumable import ResumableTrainer
from smsa.scratch import embed_pieces, set_word_vectors, train_vocabulary

logger = logging.getLogger(__name__)

CLITIC = r"(?<=\p{L}) +nya\b"  # SmSA and some of the corpora write it apart; joined, both styles are the same pieces
NOT_MASKED = -100
FINE_TUNING_DROPOUT = 0.1  # of a new encoder
VECTOR_SCALE = 2.0  # better than 1 and as good as 4 after 400 steps: docs/mini.md


def build_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Learn the word pieces of a new encoder; equal texts give equal ones.

    Its normaliser lower-cases, writes drawn-out letters once, and attaches the clitic `nya`, so that a text is the same
    pieces however these were written.
    """
    normaliser = normalizers.Sequence(
        [
            normalizers.BertNormalizer(lowercase=True),
            normalizers.Replace(Regex(DRAWN_OUT), ""),
            normalizers.Replace(Regex(CLITIC), "nya"),
        ]
    )
    vocabulary = train_vocabulary([normaliser.normalize_str(text) for text in texts], vocab_size)
    return set_normaliser(BertTokenizer(vocab=vocabulary, model_max_length=512), normaliser)


def build_encoder(
    sequences: list[list[int]], tokenizer: PreTrainedTokenizerBase, shape: EncoderArguments
) -> ModernBertForMaskedLM:
    """Build a ModernBERT whose word vectors and bias start from counts in the texts, all else at random; seed first.

    Args:
        sequences: word pieces of each training text, without special tokens.
        tokenizer: whose pieces they are.
        shape: layers and widths.
    """
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=tokenizer.model_max_length,
        layer_types=["full_attention"] * shape.num_hidden_layers,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
        classifier_pooling="mean",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    model = ModernBertForMaskedLM(config)
    set_word_vectors(model, embed_pieces(sequences, config.vocab_size, config.hidden_size), VECTOR_SCALE)
    counts = np.bincount(np.concatenate(sequences), minlength=config.vocab_size) + 1
    model.get_output_embeddings().bias.data.copy_(torch.from_numpy(np.log(counts / counts.sum())))
    # Without dropout so far: in a few epochs it learns nothing by heart. Fine-tuning builds its modules from these.
    for name in ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"):
        setattr(config, name, FINE_TUNING_DROPOUT)
    logger.info("Encoder: new, %s parameters, %s word pieces", f"{model.num_parameters():,}", f"{len(tokenizer):,}")
    return model


def add_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str]) -> int:
    """Make word pieces of their own of words that have been cut into several; get how many these were.

    The rows of all pieces that were there stay as they are. That of a new one, in the output too, is the mean of those
    of the pieces that it was cut into.

    Raises:
        ValueError: for a word with a space in it, or that is empty.
    """
    bad = [word for word in words if len(word.split()) != 1]
    if bad:
        raise ValueError(f"--add_tokens: {bad[0]!r} is not a single word.")
    by_pieces = {tuple(tokenizer(word, add_special_tokens=False)["input_ids"]): word for word in reversed(words)}
    pieces = {word: list(ids) for ids, word in reversed(by_pieces.items()) if len(ids) > 1}  # each way to write it once
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in pieces])
    new_ids = [tokenizer.convert_tokens_to_ids(word) for word in pieces]
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
    means = {new_id: inputs.data[ids].mean(0) for new_id, ids in zip(new_ids, pieces.values(), strict=True)}
    n_rows = max(len(tokenizer), model.config.vocab_size)  # some encoders have rows to spare
    biases = {}
    if outputs.bias is not None:
        biases = {new_id: outputs.bias.data[ids].mean(0) for new_id, ids in zip(new_ids, pieces.values(), strict=True)}
    model.resize_token_embeddings(n_rows, mean_resizing=False)
    with torch.no_grad():
        for new_id, mean in means.items():
            model.get_input_embeddings().weight[new_id] = mean
        for new_id, bias in biases.items():
            model.get_output_embeddings().bias[new_id] = bias
    return len(pieces)


class Masking(DataCollatorForLanguageModeling):
    """Masks other pieces of a row in each epoch, and the same ones whenever that epoch is trained again.

    The draws depend on seed, epoch and rows alone: a run that goes on from a checkpoint sees the masks of one that was
    never disturbed, however far ahead batches were prepared. Rows that have labels already are left as they are.

    Args:
        tokenizer: whose pieces the rows are.
        mlm_probability: share of the pieces that is masked: 8 of 10 by [MASK], 1 by any piece, 1 stays.
        mask_seed: of the draws.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float, mask_seed: int):
        super().__init__(tokenizer, mlm_probability=mlm_probability)
        self.mask_seed, self.epoch = mask_seed, 0

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        input_ids = torch.tensor([example["input_ids"] for example in examples])
        if "labels" in examples[0]:
            return {"input_ids": input_ids, "labels": torch.tensor([example["labels"] for example in examples])}
        epoch = crc32(f"{self.mask_seed} {self.epoch}".encode())
        self.generator = torch.Generator().manual_seed(crc32(input_ids.numpy().tobytes(), epoch))  # it takes 32 bits
        special = torch.isin(input_ids, torch.tensor(self.tokenizer.all_special_ids))
        input_ids, labels = self.torch_mask_tokens(input_ids, special_tokens_mask=special)
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
    n_masked = prediction.label_ids.sum()
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
        self.model_accepts_loss_kwargs = True  # count the masked pieces of each step for compute_loss
        self.is_masked: torch.Tensor | None = None  # of the batch that the model reads, shape (batch, length)
        _head_of(self.model).register_forward_pre_hook(self._keep_masked)
        self.add_callback(EachEpochItsMasks(masking))
        self.add_callback(PretrainingProgress())

    def count_tokens(self) -> int:
        """Get how many word pieces have been seen so far, each time that they were; special tokens count, too."""
        args, (input_ids,) = self.args, self.train_dataset[:1]["input_ids"]
        rows_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        n_rows = len(self.train_dataset)
        steps_an_epoch = -(-n_rows // rows_a_step)
        whole, rest = divmod(self.state.global_step, steps_an_epoch)
        return (whole * n_rows + rest * rows_a_step) * len(input_ids)

    def _keep_masked(self, head: nn.Module, states: tuple) -> tuple:
        return (states[0][self.is_masked], *states[1:])  # (n_masked, hidden_size)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """Get warm-up, constant rate and decay over the steps of the run."""
        if self.lr_scheduler is None:
            decay = min(self.args.decay_steps, num_training_steps)
            warmup = min(self.args.warmup_steps, num_training_steps - decay)
            self.lr_scheduler = get_wsd_schedule(
                optimizer or self.optimizer, warmup, decay, num_training_steps, decay_type="linear"
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _predict_masked(self, model: nn.Module, inputs: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Get logits of shape (n_masked, vocab_size), the pieces that were masked, and where, (batch, length)."""
        labels = inputs.pop("labels")
        self.is_masked = labels != NOT_MASKED
        return model(**inputs).logits, labels[self.is_masked], self.is_masked

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Get the share of this batch in the mean cross entropy over the masked pieces of one step.

        Args:
            num_items_in_batch: masked pieces of the step, over accumulated batches and processes.
        """
        logits, pieces, _ = self._predict_masked(model, inputs)
        loss = functional.cross_entropy(logits.float(), pieces, reduction="sum")
        return loss / num_items_in_batch * self.accelerator.num_processes  # DDP takes the mean over processes

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
    """A progress bar over all steps, and a line an epoch, on the main process only."""

    def __init__(self):
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="Pre-training", unit="step", dynamic_ncols=True
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(1)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.bar is not None:
            scores = f"LOSS:{metrics['eval_loss']:.4f} ACC:{metrics['eval_masked_accuracy']:.4f}"
            tqdm.write(f"(Epoch {epoch_number(state.epoch)}) HELD OUT {scores}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
