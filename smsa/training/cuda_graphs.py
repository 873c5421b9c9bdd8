"""Steps of training recorded as CUDA graphs: a GPU is given a whole step at once, in place of 1,200 kernels."""

import logging
from collections.abc import Callable

import torch
from torch import nn

logger = logging.getLogger(__name__)

Step = Callable[[nn.Module, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


class StepRecorder:
    """Replays forward and backward of batches whose shape was met before.

    Python takes several times as long to ask a GPU for the kernels of 32 short texts as the GPU to run them. The first
    batch of each shape runs as it is, the second is recorded, and from then on one call asks for all of its kernels.
    They are the same kernels with the same dropout, so the results are those of a run without recording. One case is
    not: of a batch without pads transformers leaves out the attention mask, but not while it is recorded, and torch may
    then take another kernel, after which dropout is drawn otherwise.

    A recording adds to gradients at fixed places. So the model's `zero_grad` sets them to 0 and keeps them, and those
    that something else has dropped are put back. All recordings share the memory between forward and backward; once it
    does not suffice, steps run as they are. Call `close` before weights or gradients get other places.

    Args:
        model: the one that is trained, whose weights stay where they are; its `zero_grad` is replaced until `close`.

    See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        model.zero_grad = self.zero_gradients
        self.pool = torch.cuda.graph_pool_handle()
        self.gradients: list[torch.Tensor | None] = []  # of each parameter
        self.lacks_memory = False
        self.recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor] | None] = {}

    def __call__(self, step: Step, model: nn.Module, inputs: dict[str, torch.Tensor], n_items: torch.Tensor):
        """Return the loss of a batch, shape (), and add its gradients to those of the model.

        `step` is what is recorded, called with the others. It computes loss and gradients, asks the GPU for no result,
        and depends only on its arguments, the weights and the random numbers. `inputs` are tensors on the GPU, by name,
        and `n_items` is one of shape ().
        """
        shape = tuple((name, values.shape) for name, values in inputs.items())
        for parameter, gradient in zip(self.parameters, self.gradients, strict=False):
            if gradient is not None and parameter.grad is not gradient:  # which something has dropped
                parameter.grad = gradient.zero_()
        if self.lacks_memory or shape not in self.recordings:
            self.recordings[shape] = None
            loss = step(model, inputs, n_items)
            self.gradients = [p.grad for p in self.parameters]
            return loss
        if self.recordings[shape] is None:
            try:
                self.recordings[shape] = self._record(step, model, inputs, n_items)
            except RuntimeError as error:  # torch's OutOfMemoryError, or that of the driver; nothing has run yet
                if "out of memory" not in str(error):
                    raise
                self.lacks_memory = True
            if self.lacks_memory:  # not above, where the error still holds what it was raised among
                logger.warning("Too little memory to record steps: the others run as they are, which takes longer.")
                self.recordings.clear()
                torch.cuda.empty_cache()
                return step(model, inputs, n_items)
        graph, places, loss = self.recordings[shape]
        for place, values in zip(places, (*inputs.values(), n_items), strict=True):
            place.copy_(values)
        graph.replay()
        return loss.clone()  # its place is that of the next batch of this shape, too

    def close(self) -> None:
        """Forget the recordings, and give gradients and `zero_grad` back to the model."""
        self.recordings.clear()
        del self.model.zero_grad
        self.model.zero_grad()

    def zero_gradients(self, set_to_none: bool = True) -> None:
        """Set all gradients to 0, where they are, whatever `set_to_none` says."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)  # as torch's optimisers do

    def _record(self, step: Step, model: nn.Module, inputs: dict[str, torch.Tensor], n_items: torch.Tensor) -> tuple:
        places = {name: values.clone() for name, values in inputs.items()}
        n_items = n_items.clone()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Threads that prepare batches may ask for memory meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                loss = step(model, dict(places), n_items)  # a copy, for the step may take out what it has read
        finally:
            torch.cuda.set_stream(stream)  # torch 2.13 leaves that of the graph where the end of a recording fails
        return graph, [*places.values(), n_items], loss
