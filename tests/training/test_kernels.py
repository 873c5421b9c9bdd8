"""Fast kernels compute what the model computes, and dropout drops as often as it says."""

import copy
import math

import pytest
import torch
from scipy.stats import binomtest
from transformers import AutoConfig, AutoModelForSequenceClassification

from smsa.training.kernels import quick_dropout, use_fast_kernels

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 40, "num_labels": 3}
SIZES |= {"num_key_value_heads": 1, "head_dim": 16}  # of decoders
SIZES |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "embedding_size": 16}


def make(kind):
    """Return a random classifier of a kind, without dropout."""
    torch.manual_seed(0)
    dropout = {"classifier_dropout": 0.0} | ({"classifier_dropout_prob": 0.0} if kind == "albert" else {})
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **SIZES, **dropout))


def gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    outputs = model(**batch)
    outputs.loss.backward()
    return outputs.logits, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])  # what is set for a GPU computes on a CPU, too
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "albert", "electra", "gemma2"])
def test_logits_and_gradients_are_the_models(kind, device_type):
    input_ids = torch.randint(1, 60, (5, 17), generator=torch.Generator().manual_seed(3))
    attention_mask = (torch.arange(17) < torch.tensor([17, 3, 9, 1, 16])[:, None]).long()
    batch = {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask, "labels": torch.arange(5) % 3}
    plain = make(kind).double().train()
    fast = copy.deepcopy(plain)
    use_fast_kernels(fast, device_type)
    expected, found = gradients(plain, batch), gradients(fast, batch)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    assert sum(gradient is not None for gradient in found[1].values()) > 20
    if kind == "bert":  # whose last layer is computed for one token
        assert fast.bert(batch["input_ids"]).last_hidden_state.shape == (5, 1, 32)
    for weight, gradient in expected[1].items():
        if gradient is None or found[1][weight] is None:  # a weight that no loss reaches
            assert gradient is found[1][weight], weight
        else:
            torch.testing.assert_close(found[1][weight], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.001])
def test_dropout_drops_at_its_rate_by_the_seed_and_keeps_the_mean(p):
    x = torch.full((1001, 999), 2.0, requires_grad=True)
    draws = []
    for seed in (1, 0, 0):
        torch.manual_seed(seed)
        draws.append(quick_dropout(x, p, training=True))
    other, again, y = draws
    assert torch.equal(y, again) and not torch.equal(y, other)
    y.sum().backward()
    dropped = y == 0
    assert binomtest(int(dropped.sum()), dropped.numel(), p).pvalue > 1e-4
    for distance in (1, 2, 3, 4, 8):  # neighbours as others: four elements share the 64 bits of one draw
        both = (dropped.flatten()[:-distance] & dropped.flatten()[distance:])[:: 2 * distance + 1]
        assert binomtest(int(both.sum()), len(both), p**2).pvalue > 1e-4, distance
    assert torch.equal(x.grad, torch.where(dropped, 0.0, x.grad.max()))
    assert math.isclose(x.grad.max().item(), 1 / (1 - p), rel_tol=1e-4)
    assert torch.equal(y, x.grad * 2)
    assert quick_dropout(x, p, training=False) is x and quick_dropout(x, 0.0, training=True) is x
    assert not quick_dropout(x, 1.0, training=True).any()
