"""Which words pushed a text towards its label, and which away from it.

Integrated gradients over word vectors, from the text with every piece masked to the text itself, of the log-odds of the
label: what the words add up to is what the model makes of the text, beyond what it makes of no words at all.

Source: Sundararajan, Taly and Yan 2017, Axiomatic Attribution for Deep Networks, https://arxiv.org/abs/1703.01365
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from captum.attr import LayerIntegratedGradients
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOLERANCE = 0.05  # log-odds by which all weights together may miss what they should add up to
STEPS = (32, 64, 128, 256)  # of the integral, until they do
BATCH_PIECES = 4096  # word pieces of the texts along the path that are computed together


@dataclass(frozen=True)
class Word:
    """A word of a text, what it is there, from `start` to before `end`, and its weight in log-odds of the label."""

    word: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Explanation:
    """What the words of a text weigh for one label.

    Attributes:
        label: the label.
        log_odds: log(p / (1 - p)) of its probability p.
        no_words: the same with every word piece masked.
        words: in their order; those beyond the cut of a long text are not among them.
        gap: log_odds - no_words - the sum of the weights.
    """

    label: str
    log_odds: float
    no_words: float
    words: list[Word]
    gap: float

    def to_dict(self) -> dict:
        """Get plain values."""
        return asdict(self)


class Explainer:
    """Explains what a model says of texts, one at a time.

    Args:
        model: a sequence classifier; it is held in fp32.
        tokenizer: a fast tokenizer.
        max_length: word pieces a text, special tokens included.
        device: where to compute.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        device: str | torch.device = "cpu",
    ):
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.model.set_attn_implementation("eager")  # whose gradients are the fastest on a CPU
        self.tokenizer, self.max_length = tokenizer, min(max_length, tokenizer.model_max_length)
        self.labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        candidates = (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id)
        self.no_word_id = next(token_id for token_id in candidates if token_id is not None)
        self._gradients = LayerIntegratedGradients(self._log_odds, model.get_input_embeddings())

    def _log_odds(self, input_ids: torch.Tensor, label_id: int) -> torch.Tensor:
        logits = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits
        others = [i for i in range(logits.shape[-1]) if i != label_id]
        return logits[:, label_id] - logits[:, others].logsumexp(-1)  # (batch,)

    def explain(self, text: str, label: str | None = None) -> Explanation:
        """Get the weights of the words of a text.

        Args:
            text: the text.
            label: for which label; that which the text gets, if None.

        Raises:
            ValueError: for a label that the model does not have, or a text that holds no word piece.
            ArithmeticError: if the weights do not add up within `TOLERANCE`.
        """
        if label is not None and label not in self.labels:
            raise ValueError(f"label {label!r} is not one of {', '.join(self.labels)}.")
        encoding = self.tokenizer(text, truncation=True, max_length=self.max_length, return_tensors="pt")
        input_ids = encoding["input_ids"].to(self.model.device)  # (1, length)
        word_ids = encoding.word_ids()
        if not any(word_id is not None for word_id in word_ids):
            raise ValueError("the text is empty: there is no word to explain.")
        is_piece = torch.tensor([[word_id is not None for word_id in word_ids]], device=input_ids.device)
        no_words = torch.where(is_piece, self.no_word_id, input_ids)
        with torch.no_grad():
            logits = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0]
            label_id = int(logits.argmax()) if label is None else self.labels.index(label)
            ends = [self._log_odds(ids, label_id).item() for ids in (no_words, input_ids)]
        for n_steps in STEPS:
            weights = self._gradients.attribute(
                input_ids,
                baselines=no_words,
                additional_forward_args=label_id,
                n_steps=n_steps,
                method="gausslegendre",
                internal_batch_size=max(1, BATCH_PIECES // input_ids.shape[1]),
            )
            weights = weights[0].sum(-1).cpu().double().numpy()  # (length,)
            gap = ends[1] - ends[0] - weights.sum()
            if abs(gap) <= TOLERANCE:
                break
        else:
            raise ArithmeticError(f"the weights of the words miss their sum by {gap:.3f} after {STEPS[-1]} steps.")
        words = merge_pieces(text, word_ids, encoding.encodings[0].offsets, weights)
        return Explanation(self.labels[label_id], ends[1], ends[0], words, float(gap))


def merge_pieces(
    text: str, word_ids: list[int | None], offsets: list[tuple[int, int]], weights: np.ndarray
) -> list[Word]:
    """Get the words of a text with the sums of the weights of their pieces.

    Args:
        text: the text.
        word_ids: of each piece, the number of its word; None for special tokens.
        offsets: of each piece, where it begins and ends in the text.
        weights: of shape (n_pieces,).
    """
    pieces_of: dict[int, list[int]] = {}
    for i, word_id in enumerate(word_ids):
        if word_id is not None:
            pieces_of.setdefault(word_id, []).append(i)
    words = []
    for pieces in pieces_of.values():
        start, end = min(offsets[i][0] for i in pieces), max(offsets[i][1] for i in pieces)
        start += len(text[start:end]) - len(text[start:end].lstrip())  # SentencePiece counts the space before, too
        words.append(Word(text[start:end], start, end, float(weights[pieces].sum())))
    return words
