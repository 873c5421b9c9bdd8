"""Training with less work for the same mathematics: other rounding, and other random numbers in dropout.

What it saves is measured by benchmarks/training.py; docs/speed.md has the figures.
"""

from types import MethodType

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

# Their classifiers read the first token alone, and their layers are made of the same parts.
FIRST_TOKEN_CLASSIFIERS = ("bert", "electra", "roberta", "xlm-roberta")
_PLAIN_ATTENTION = (*FIRST_TOKEN_CLASSIFIERS, "albert", "distilbert", "modernbert")  # neither grouped nor capped
_STEPS = 2**16  # in which quick_dropout's probability is counted


def quick_dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Return what torch's dropout returns, with `p` rounded to 1/65536 and 16 random bits an element.

    On a CPU, torch draws for each element, one after the other, which takes 12 ns an element, forward and back, against
    4 here, and a sixth of the time of a small model. The bits come from torch's global generator, so that seeds and
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
    """Attention in plain products with `quick_dropout`; arguments and result as transformers' interface has them.

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
    """Change how `model` computes, in place; its weights, its configuration and what it computes stay.

    Its last layer is computed for the first token alone, which is all that the classifier reads, where the
    architecture is known to do so. On a CPU, dropout is that above, and attention where the architecture has that one.
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
    """Compute the attention of `model` by `attend`, where it is that, on a CPU: torch's own is slower in training."""
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
