"""AdamW with an exponential moving average (EMA) of the weights, which it lends to the model for evaluation."""

import torch


class EmaAdamW(torch.optim.AdamW):
    """AdamW whose `eval` puts averaged weights into the model, and whose `train` puts the model's own weights back.

    After step t the average moves towards the weights by 1 - min(decay, (1 + t) / (10 + t)), so that early weights,
    which are far from the later ones, are soon forgotten. Trainer calls `eval` before it evaluates and `train` before
    it trains on, so that scores, and the checkpoint saved with them, are those of the average. The weights that the
    model does not hold at the moment are in the optimiser's state, and thus in every checkpoint.

    Args:
        params, **kwargs: as in AdamW, but weight decay is 0 if not given.
        decay: between 0 and 1; the average covers about the last 1 / (1 - decay) steps.

    Source: Polyak and Juditsky 1992; the early decay is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, params, decay: float, weight_decay: float = 0.0, **kwargs):
        super().__init__(params, weight_decay=weight_decay, **kwargs)
        for group in self.param_groups:
            group |= {"average_decay": decay, "n_averaged": 0, "lends_average": False}

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step of AdamW, and update the average; only while the model has its own weights."""
        loss = super().step(closure)
        for group in self.param_groups:
            t = group["n_averaged"] = group["n_averaged"] + 1
            weight = 1 - min(group["average_decay"], (1 + t) / (10 + t))
            if getattr(self, "found_inf", None) is not None:  # fp16: a fused step is skipped on overflow
                weight = weight * (1 - self.found_inf)
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state and "average" in state:
                    state["average"].lerp_(parameter, weight)
                elif state:  # a parameter without gradient has none
                    state["average"] = parameter.clone()
        return loss

    def eval(self) -> None:
        """Put the average into the model."""
        self._exchange(True)

    def train(self) -> None:
        """Put the model's own weights back."""
        self._exchange(False)

    @torch.no_grad()
    def _exchange(self, lends_average: bool) -> None:
        for group in self.param_groups:
            if group["lends_average"] != lends_average:
                group["lends_average"] = lends_average
                for parameter in group["params"]:
                    average = self.state.get(parameter, {}).get("average")
                    if average is not None:
                        held = parameter.clone()
                        parameter.copy_(average)
                        average.copy_(held)
