"""Padded word pieces -> logits, on torch or on OpenVINO.

On a CPU one batch never uses more than one core, and as many batches run side by side as there are cores. This is
faster than all cores on one batch, and the sums of a batch do not depend on the number of cores or processes: that is
what makes the output of `scripts/predict.py` byte-identical for any of them.
"""

import importlib.util
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from smsa.errors import UserError
from smsa.inference.batching import pad_batch
from smsa.models.devices import (
    PRECISIONS,
    avoid_compiled_attention,
    precision_for_scoring,
    resolve_precision,
    share_of_cores,
)

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "torch", "openvino")
SCORING_PRECISIONS = (*PRECISIONS, "int8")
# Measured on a CPU by benchmarks/scoring.py; for a GPU chosen on paper, and found good enough on an H200.
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}  # word pieces a batch, pads included
WINDOW_ROWS = {"cpu": 2048, "cuda": 8192}  # texts that are sorted by length together, and scored by one process
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_NOT_INT8 = re.compile("embeddings|pooler|classifier")  # what stays in fp32 under int8, for it costs no time
_INT8_GROUP = 128  # activations that share a scale


class Engine:
    """Runs padded batches on one device, several side by side on a CPU; on a GPU the next is padded meanwhile.

    Args:
        model: a sequence classifier in fp32; the engine may change it.
        device: `cpu`; `cuda` for the GPU that falls to this process of a launch; `cuda:1`; None for `cuda` where it is
            there, else `cpu`.
        precision: one of `SCORING_PRECISIONS`; `auto` is that of `precision_for_scoring`.
        backend: one of `BACKENDS`; `auto` is OpenVINO on a CPU where it is installed, else torch.
        num_threads: CPU cores to use; None for all that fall to this process.
        batch_tokens: word pieces that a batch should have, pads included; None is that of `BATCH_TOKENS`.

    Attributes:
        device, precision, backend: what is in effect.
        batch_tokens: word pieces that a batch should have.
        window_rows: texts that should be batched together.

    Raises:
        ValueError: for an unknown name, or a backend and precision that do not go together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        device: str | None = None,
        precision: str = "auto",
        backend: str = "auto",
        num_threads: int | None = None,
        batch_tokens: int | None = None,
    ):
        for name, value, known in (("precision", precision, SCORING_PRECISIONS), ("backend", backend, BACKENDS)):
            if value not in known:
                raise UserError(f"{name} {value!r} is not one of {', '.join(known)}.")
        for name, value in (("num_threads", num_threads), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        # as Accelerate counts: a scheduler may let each process see one GPU alone
        own_gpu = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % max(1, torch.cuda.device_count())}"
        try:
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            self.device = torch.device(own_gpu if device == "cuda" else device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # no such device; torch was built without it
            raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
        on_cpu = self.device.type == "cpu"
        if backend == "openvino" and not on_cpu:
            raise UserError("the openvino backend runs on the CPU: give --device cpu.")
        self.backend = backend
        if backend == "auto":
            self.backend = "openvino" if on_cpu and _has_openvino() else "torch"
        if precision == "int8" and self.backend != "openvino":
            raise UserError("precision int8 needs the openvino backend on a CPU: pip install 'smsa[openvino]'.")
        if self.backend == "openvino" and not _has_openvino():
            raise UserError("the openvino backend is not installed: pip install 'smsa[openvino]'.")
        self.precision = (
            precision if precision == "int8" else resolve_precision(precision, self.device.type, precision_for_scoring)
        )
        self.n_streams = 2 if self.device.type == "cuda" else 1  # one waits for the GPU, one pads
        if on_cpu:
            self.n_streams = num_threads or share_of_cores()
        kind = "cpu" if on_cpu else "cuda"
        self.batch_tokens, self.window_rows = batch_tokens or BATCH_TOKENS[kind], WINDOW_ROWS[kind]
        self._pad_id = model.config.pad_token_id or 0
        self._running = threading.Lock()  # a run uses all cores, so that a second one from another thread waits
        if self.backend == "openvino":
            try:
                self._forward = _openvino_forward(model, self.precision, self.n_streams)
            except RuntimeError as error:
                problem = f"OpenVINO cannot run {type(model).__name__} ({str(error).strip().splitlines()[0]})"
                if backend == "openvino" or precision == "int8":
                    raise UserError(f"{problem}: give --backend torch, which has no int8.") from error
                logger.warning("%s: torch runs it.", problem)
                self.backend = "torch"
        if self.backend == "torch":
            self._forward = _torch_forward(model, self.device, self.precision)
        logger.info("Scoring on %s, %s, %d batch(es) at a time", self.device, self.backend, self.n_streams)

    def run(self, token_ids: Sequence[np.ndarray], batches: Sequence[np.ndarray]) -> np.ndarray:
        """Get logits of shape (n_texts, n_labels), float32, rows in the order of `token_ids`.

        Args:
            token_ids: ids of each text's word pieces, special tokens included.
            batches: indices into `token_ids`, each in exactly one batch.

        Raises:
            ValueError: if the memory of a GPU does not hold a batch.
        """

        def forward(batch: np.ndarray) -> torch.Tensor:
            return self._forward(*pad_batch([token_ids[i] for i in batch], self._pad_id))

        with self._running, _one_core_a_batch(), ThreadPoolExecutor(self.n_streams) as pool:
            try:
                outputs = list(pool.map(forward, batches))
                # one wait for the GPU a window, in a thread of the pool: a stream of the caller's would not wait
                merged = pool.submit(lambda: torch.cat(outputs).float().cpu().numpy()).result()
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.device} has too little free memory for a batch of {self.batch_tokens:,} word pieces: give "
                    f"fewer, for instance --batch_tokens {max(1, self.batch_tokens // 4)}."
                ) from error
        logits = np.empty_like(merged)
        logits[np.concatenate(batches)] = merged
        return logits


@contextmanager
def _one_core_a_batch() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


_Forward = Callable[[np.ndarray, np.ndarray], torch.Tensor]  # input ids, attention mask -> logits (batch, n_labels)


def _torch_forward(model: PreTrainedModel, device: torch.device, precision: str) -> _Forward:
    model = model.to(device).eval()
    avoid_compiled_attention()
    for parameter in model.parameters():  # but no buffers: rotary frequencies are exact in fp32 alone
        parameter.data = parameter.data.to(_DTYPES[precision])

    @torch.inference_mode()
    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> torch.Tensor:
        ids, mask = (_to_device(array, device) for array in (input_ids, attention_mask))
        return model(input_ids=ids, attention_mask=mask).logits

    return forward


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Logits(nn.Module):
    """The model as exporters take it: two tensors in, logits out."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def to_openvino(model: PreTrainedModel):
    """Get the model as an `openvino.Model`: `input_ids` and `attention_mask` of any shape in, logits out."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # openvino.convert_model does the same, and also reports to Intel over the network.
    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    frontend = FrontEndManager().load_by_framework("pytorch")
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.loss_function = None  # tracing reads each attribute: transformers would warn of a loss it chose
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that tracing fixes; tests compare other shapes with torch
        decoder = TorchScriptPythonDecoder(  # must outlive the conversion; a check would trace a second time
            Logits(model.eval()), example_input=example, trace_kwargs={"check_trace": False}
        )
        graph = frontend.convert(frontend.load(decoder))
    graph.validate_nodes_and_infer_types()
    return graph


def _openvino_forward(model: PreTrainedModel, precision: str, n_streams: int) -> _Forward:
    import openvino

    graph = to_openvino(model)
    config = {
        "NUM_STREAMS": str(n_streams),
        "INFERENCE_NUM_THREADS": n_streams,
        "ENABLE_CPU_PINNING": False,  # else every process of a launch takes the same first cores
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(precision, "f32"),
    }
    if precision == "int8":
        compress_weights(graph)
    compiled = openvino.Core().compile_model(graph, "CPU", config)
    per_thread = threading.local()  # a request serves one thread

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> torch.Tensor:
        if not hasattr(per_thread, "request"):
            per_thread.request = compiled.create_infer_request()
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return torch.from_numpy(per_thread.request.infer(inputs)[0].copy())

    if len(forward(*np.ones((2, 3, 5), dtype=np.int64))) != 3:  # tracing saw two texts, of eight word pieces
        raise RuntimeError("its graph holds for one number of texts alone")
    return forward


def compress_weights(graph) -> None:
    """Hold weights of linear layers as int8 with a scale a row; OpenVINO then quantises activations as they come.

    Symmetric: weight = int8 * scale, scale = max |weight| / 127 of an output's row. The graph says how many activations
    share a scale, also when it has been saved.
    """
    from openvino import opset13 as opset

    for node in graph.get_ops():
        if node.get_type_name() != "MatMul" or _NOT_INT8.search(node.get_friendly_name()):
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() != "Constant" or len(source.get_output_shape(0)) != 2:
            continue
        weights = source.get_data()  # (outputs, inputs): torch's linear layers are transposed
        scale = np.abs(weights).max(axis=1, keepdims=True).clip(min=1e-12) / 127
        levels = opset.convert(opset.constant(np.rint(weights / scale).astype(np.int8)), "f32")
        node.input(1).replace_source_output(opset.multiply(levels, opset.constant(scale)).output(0))
    graph.set_rt_info(str(_INT8_GROUP), ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
