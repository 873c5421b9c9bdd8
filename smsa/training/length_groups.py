"""A sampler whose batches hold texts of similar length."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

STEPS_A_POOL = 50  # texts are sorted within pools of this many steps: enough to save most padding, few enough to mix


class LengthGroupedSampler(Sampler[int]):
    """Shuffle texts so that those of one step are of similar length, with the steps in random order.

    Trainer 5.23's own sampler goes through each pool from its longest texts to its shortest. In SmSA, length correlates
    with the label, so the model drifts along with the labels: after one epoch of a 4x256 BERT with random weights,
    macro F1 on valid was 0.50 with that sampler and 0.70 with steps in random order.

    Args:
        lengths: length of each text.
        step_size: texts of one optimiser step, over accumulated batches and processes.
        seed: seed and epoch fix the order, which is the same in each process.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int):
        self.lengths = torch.tensor(lengths)
        self.step_size = step_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`, counted from 0; Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        n_steps = len(self) // self.step_size
        pools = order[: n_steps * self.step_size].split(STEPS_A_POOL * self.step_size)
        by_length = [pool[self.lengths[pool].argsort(stable=True)] for pool in pools]
        steps = torch.cat(by_length).view(n_steps, self.step_size)
        yield from steps[torch.randperm(n_steps, generator=generator)].flatten().tolist()
        yield from order[steps.numel() :].tolist()  # the short last step: any texts
