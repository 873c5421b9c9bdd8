"""Training steps recorded as CUDA graphs: one launch starts all 1,200 kernels of a step."""

import logging
from collections.abc import Callable

import torch
from torch import nn

logger = logging.getLogger(__name__)

Step = Callable[[nn.Module, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


class StepRecorder:
    """Replay the forward and backward passes of batches whose shape has been seen before.

    For 32 short texts, Python takes several times as long to launch the kernels as the GPU takes to run them. The first
    batch of a shape runs as usual, the second is recorded, and each later one is replayed with a single launch. Kernels
    and dropout are the same, so the results are those of a run without recording, with one exception. Without padding,
    transformers omits the attention mask, except during a recording. torch may then choose another kernel, after which
    the random numbers for dropout differ.

    A recording adds to gradients at fixed addresses. The model's `zero_grad` therefore sets gradients to 0 and keeps
    them, and a gradient that other code has dropped is put back. All recordings share one pool of memory. Once memory
    runs out, steps run without recording. Call `close` before weights or gradients move to other addresses.

    Args:
        model: the model to train. Its weights must not move, and its `zero_grad` is replaced until `close`.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        model.zero_grad = self.zero_gradients
        self.pool = torch.cuda.graph_pool_handle()
        self.gradients: list[torch.Tensor | None] = []  # in the order of `parameters`
        self.lacks_memory = False
        self.recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor] | None] = {}

    def __call__(self, step: Step, model: nn.Module, inputs: dict[str, torch.Tensor], n_items: torch.Tensor):
        """Return the loss of a batch, shape (), and add its gradients to those of the model.

        `step` is the function to record; it is called with the other arguments. It computes loss and gradients, never
        waits for a result of the GPU, and depends only on its arguments, the weights and random numbers. `inputs` are
        tensors on the GPU, by name; `n_items` is a tensor of shape ().
        """
        shape = tuple((name, values.shape) for name, values in inputs.items())
        for parameter, gradient in zip(self.parameters, self.gradients, strict=False):
            if gradient is not None and parameter.grad is not gradient:  # other code has dropped it
                parameter.grad = gradient.zero_()
        if self.lacks_memory or shape not in self.recordings:
            self.recordings[shape] = None
            loss = step(model, inputs, n_items)
            self.gradients = [p.grad for p in self.parameters]
            return loss
        if self.recordings[shape] is None:
            try:
                self.recordings[shape] = self._record(step, model, inputs, n_items)
            except RuntimeError as error:  # torch's OutOfMemoryError, or the driver's; no kernel has run yet
                if "out of memory" not in str(error):
                    raise
                self.lacks_memory = True
            if self.lacks_memory:  # not within `except`, where the error still keeps tensors alive
                logger.warning("Too little GPU memory to record steps: the rest run without recording, more slowly.")
                self.recordings.clear()
                torch.cuda.empty_cache()
                return step(model, inputs, n_items)
        graph, places, loss = self.recordings[shape]
        for place, values in zip(places, (*inputs.values(), n_items), strict=True):
            place.copy_(values)
        graph.replay()
        return loss.clone()  # the next batch of this shape overwrites it

    def close(self) -> None:
        """Drop the recordings and the gradients, and restore the model's own `zero_grad`."""
        self.recordings.clear()
        del self.model.zero_grad
        self.model.zero_grad()

    def zero_gradients(self, set_to_none: bool = True) -> None:
        """Set all gradients to 0 in place, whatever `set_to_none` says."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)  # as torch's optimisers do

    def _record(self, step: Step, model: nn.Module, inputs: dict[str, torch.Tensor], n_items: torch.Tensor) -> tuple:
        places = {name: values.clone() for name, values in inputs.items()}
        n_items = n_items.clone()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Threads that prepare batches may allocate memory during the recording.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                loss = step(model, dict(places), n_items)  # a copy, since the step may pop entries
        finally:
            torch.cuda.set_stream(stream)  # torch 2.13 keeps the graph's stream if ending a recording fails
        return graph, [*places.values(), n_items], loss
