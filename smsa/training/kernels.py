"""Faster training with the same mathematics, but other rounding and other random numbers in dropout.

benchmarks/training.py measures the gain; docs/speed.md has the figures.
"""

from types import MethodType

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

# Their classifiers read only the first token, and their layers have the same parts.
FIRST_TOKEN_CLASSIFIERS = ("bert", "electra", "roberta", "xlm-roberta")
_PLAIN_ATTENTION = (*FIRST_TOKEN_CLASSIFIERS, "albert", "distilbert", "modernbert")  # no grouped heads or capped scores
_STEPS = 2**16  # quick_dropout rounds its probability to 1/65536


def quick_dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Apply dropout as torch does, with `p` rounded to 1/65536 and 16 random bits an element.

    On a CPU, torch draws for one element after the other. Forward and backward take 12 ns an element, a sixth of the
    time of a small model; here they take 4 ns. The bits come from torch's global generator, so that seeds and
    checkpoints cover them.
    """
    n_dropped = round(p * _STEPS)
    if not training or not 0 < n_dropped < _STEPS:
        return nn.functional.dropout(x, p, training)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = (bits[: x.numel()] >= n_dropped - _STEPS // 2).view(x.shape)
    return x * keep.to(x.dtype).mul_(_STEPS / (_STEPS - n_dropped))


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention with plain matrix products and `quick_dropout`, as a transformers AttentionInterface.

    Returns:
        The context of each query, shape (batch, queries, heads, head_size), and the attention weights, shape
        (batch, heads, queries, keys).
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = quick_dropout(scores.softmax(-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("smsa_quick", attend)
AttentionMaskInterface.register("smsa_quick", eager_mask)


def use_fast_kernels(model: PreTrainedModel, device_type: str) -> None:
    """Make `model` faster, in place; its weights, its configuration and what it computes stay the same.

    For `FIRST_TOKEN_CLASSIFIERS`, the last layer is computed only for the first token, which is all that the classifier
    reads. On a CPU, dropout becomes `quick_dropout`, and attention changes as in `use_quick_attention`.
    """
    use_quick_attention(model, device_type)
    if device_type == "cpu":
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.forward = MethodType(lambda module, x: quick_dropout(x, module.p, module.training), module)
    if model.config.model_type in FIRST_TOKEN_CLASSIFIERS:
        last = model.base_model.encoder.layer[-1]
        last.forward = MethodType(_forward_first_token, last)


def use_quick_attention(model: PreTrainedModel, device_type: str) -> None:
    """Compute plain attention with `attend` on a CPU, where torch's own is slower in training."""
    if device_type == "cpu" and model.config.model_type in _PLAIN_ATTENTION:
        model.set_attn_implementation("smsa_quick")


def _forward_first_token(layer: nn.Module, hidden_states: torch.Tensor, attention_mask=None, *args, **kwargs):
    """Return the layer's output for the first token, shape (batch, 1, hidden_size)."""
    attention, first = layer.attention.self, hidden_states[:, :1]

    def by_head(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    implementation = AttentionInterface().get_interface(attention.config._attn_implementation, attend)
    context, _ = implementation(
        attention,
        by_head(attention.query(first)),
        by_head(attention.key(hidden_states)),
        by_head(attention.value(hidden_states)),
        attention_mask if attention_mask is None else attention_mask[:, :, :1],
        dropout=attention.dropout.p if layer.training else 0.0,
        scaling=attention.scaling,
    )
    return layer.feed_forward_chunk(layer.attention.output(context.flatten(2), first))
