"""Tokens -> padded batches -> logits, on torch or on OpenVINO.

On a CPU one batch never uses more than one core, and as many batches run side by side as there are cores: this is
faster than all cores on one batch.
"""

import ctypes
import importlib.util
import logging
import os
import re
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel
from transformers.hf_argparser import HfArg

from smsa.errors import UserError
from smsa.runtime import PRECISIONS, resolve_precision, share_of_cores

logger = logging.getLogger(__name__)

# On import, OpenVINO reports to Intel over the network. Where processes are spawned or come from a server (macOS,
# Python 3.14), the one that reports would run the user's script a second time. Without this package, nothing reports.
sys.modules.setdefault("openvino_telemetry", None)

Forward = Callable[[np.ndarray, np.ndarray], torch.Tensor]  # input ids, attention mask -> logits (batch, n_labels)

BACKENDS = ("auto", "torch", "openvino")
# The CPU's figures were measured with benchmarks/, the GPU's are large enough for an H100.
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}  # tokens in a batch, pads included
CHUNK_ROWS = {"cpu": 2048, "cuda": 8192}  # texts that one process sorts by length and predicts together
_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# torch's own attention kernels: cuDNN compiles one for each batch shape, about 0.25 s each on an H200
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_NOT_INT8 = re.compile("embeddings|pooler|classifier")  # layers that int8 leaves in fp32: they take no time
_INT8_GROUP = 128  # activations that share a scale
# A run uses all cores, so other threads wait for it. A fork waits, too: it would copy locks that the run holds.
_RUNNING = threading.RLock()
_COMPILED = weakref.WeakSet()  # OpenVINO's compiled models


@dataclass
class EngineArguments:
    """Where and how a model runs; None chooses what suits the machine. `max_length` is for the classifier."""

    max_length: int | None = HfArg(
        default=None,
        help="Tokens per text, special tokens included; longer texts are truncated. The default, and the "
        "maximum, is the length that the model was trained with, which its tokenizer states.",
    )
    device: str | None = HfArg(
        default=None,
        help="cpu, cuda (in a launch, one GPU per process) or cuda:N; if not given, cuda if there is a GPU.",
    )
    precision: Literal[*PRECISIONS, "int8"] = HfArg(
        default="auto",
        help="auto: what the launcher asks for, else fp16 on a GPU, bf16 on a CPU that is fast in it (AMX; AMD with "
        "avx512_bf16), and no (fp32) elsewhere. int8 needs OpenVINO and a CPU with VNNI, and shifts probabilities by "
        "about 0.01.",
    )
    backend: Literal[*BACKENDS] = HfArg(default="auto", help="auto: OpenVINO on a CPU if it is installed, else torch.")
    num_threads: int | None = HfArg(default=None, help="CPU cores of each process; if not given, an equal share.")
    batch_tokens: int | None = HfArg(
        default=None,
        help="Tokens per batch, padding included; if not given, 1,024 on a CPU and 65,536 on a GPU. Fewer need less "
        "memory, and change the last digits of probabilities.",
    )


class Engine:
    """Run padded batches on one device. A CPU runs several at a time; for a GPU, the next is padded meanwhile.

    Args:
        model: a sequence classifier in fp32; the engine may change it.
        options: of `EngineArguments`.

    Attributes:
        device, precision, backend, batch_tokens: the values in effect.
        chunk_rows: how many texts should be batched together.
        forward: the function that runs one batch.

    Raises:
        UserError: for an unknown name, or a backend and precision that do not go together.
    """

    def __init__(self, model: PreTrainedModel, **options: object):
        args = EngineArguments(**options)
        for name, known in (("precision", (*PRECISIONS, "int8")), ("backend", BACKENDS)):
            if getattr(args, name) not in known:
                raise UserError(f"{name} {getattr(args, name)!r} is not one of {', '.join(known)}.")
        for name in ("num_threads", "batch_tokens"):
            if (value := getattr(args, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1.")
        # like Accelerate, modulo the visible GPUs: a scheduler may let each process see only one
        own_gpu = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % max(1, torch.cuda.device_count())}"
        try:
            device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device is None else args.device
            self.device = torch.device(own_gpu if device == "cuda" else device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # there is no such device, or torch was built without it
            raise UserError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
        kind = "cpu" if self.device.type == "cpu" else "cuda"
        has_openvino = kind == "cpu" and importlib.util.find_spec("openvino") is not None
        self.backend = ("openvino" if has_openvino else "torch") if args.backend == "auto" else args.backend
        needs_openvino = args.precision == "int8" or self.backend == "openvino"
        if needs_openvino and (self.backend == "torch" or not has_openvino):
            raise UserError(
                "the openvino backend, which int8 needs, cannot be used: it runs only on the CPU, and has to be "
                "installed. Run pip install -e '.[openvino]', give --device cpu, and no --backend torch."
            )
        if args.precision == "int8":
            self.precision, has = "int8", torch.cpu.get_capabilities()
            # Rows/s of IndoBERT's shape on two cores: 111.1 in int8, 35.7 in fp32 on a Xeon with VNNI; 10.4 and 12.1 on
            # an EPYC with only AVX2, which has no instruction for 8-bit products.
            is_fast = any(has.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
            if has.get("architecture") == "x86_64" and not is_fast:
                logger.warning("This CPU is slower in int8 than in fp32: --precision no is faster, and exact.")
        else:
            self.precision = resolve_precision(args.precision, self.device.type, training=False)
        # on a GPU one batch is computed while the next is padded
        self.n_streams = args.num_threads or share_of_cores() if kind == "cpu" else 2
        self.batch_tokens, self.chunk_rows = args.batch_tokens or BATCH_TOKENS[kind], CHUNK_ROWS[kind]
        self._pad_id = model.config.pad_token_id or 0
        # One pool for all runs: no fork may happen while a thread ends. In a fork, `_compile` makes a new `forward`.
        self._pid, self._pool, self._compile = os.getpid(), ThreadPoolExecutor(self.n_streams), None
        if self.backend == "openvino":
            try:
                graph = to_openvino(model)
                if args.precision == "int8":
                    compress_weights(graph)
                config = {
                    "NUM_STREAMS": str(self.n_streams),
                    "INFERENCE_NUM_THREADS": self.n_streams,
                    "ENABLE_CPU_PINNING": False,  # otherwise all processes of a launch take the same cores
                    "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
                }
                self._compile = partial(compile_openvino, graph, config)
                self.forward = self._compile()
            except RuntimeError as error:
                reason = " ".join(re.sub("(?m)^Exception from .*", "", str(error)).split())  # without its C++ files
                problem = f"OpenVINO cannot run {type(model).__name__} ({reason})"
                if args.backend == "openvino" or args.precision == "int8":
                    raise UserError(f"{problem}: give --backend torch, which has no int8.") from error
                logger.warning("%s: torch runs it.", problem)
                self.backend = "torch"
        if self.backend == "torch":
            try:
                self.forward = _torch_forward(model, self.device, self.precision)
            except torch.OutOfMemoryError as error:
                what = f"{self.device} has too little free memory for the model"
                raise UserError(f"{what}: free some of it, or give --device cpu.") from error
        logger.info("Predicting on %s, %s, %d batch(es) at a time", self.device, self.backend, self.n_streams)

    def run(self, token_ids: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits of shape (n_texts, n_labels), float32, rows in the order of `token_ids`.

        Args:
            token_ids: ids of each text's tokens, special tokens included.

        Raises:
            UserError: if a batch does not fit in the GPU's memory.
        """
        lengths = np.array([len(ids) for ids in token_ids])
        rest = order = np.argsort(-lengths, kind="stable")  # longest first, so that a batch has few pads
        n_threads, outputs = torch.get_num_threads(), []
        # The number of threads and the attention kernels are process-wide settings: both are restored at the end.
        with _RUNNING, sdpa_kernel(_ATTENTION):
            if self._pid != os.getpid():  # a fork has no threads: neither the pool's nor OpenVINO's
                self._pid, self._pool = os.getpid(), ThreadPoolExecutor(self.n_streams)
                self.forward = self._compile() if self._compile else self.forward
            torch.set_num_threads(1)
            try:
                while rest.size:  # a text longer than batch_tokens is a batch of its own
                    batch, rest = np.split(rest, [max(1, self.batch_tokens // lengths[rest[0]])])
                    attention_mask = np.arange(lengths[batch[0]]) < lengths[batch][:, None]  # (n_texts, n_tokens)
                    input_ids = np.full(attention_mask.shape, self._pad_id, dtype=np.int64)
                    input_ids[attention_mask] = np.concatenate([token_ids[i] for i in batch])
                    outputs.append(self._pool.submit(self.forward, input_ids, attention_mask.astype(np.int64)))
                logits = [output.result() for output in outputs]
                # wait for the GPU once per chunk, on a pool thread: the caller's CUDA stream would not wait for theirs
                merged = self._pool.submit(lambda: torch.cat(logits).float().cpu().numpy()).result()
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"{self.device} has too little free memory for a batch of {self.batch_tokens:,} tokens: give "
                    f"fewer, for instance --batch_tokens {max(1, self.batch_tokens // 4)}."
                ) from error
            finally:
                for output in outputs:
                    output.cancel()  # after an error, nobody needs the rest
                torch.set_num_threads(n_threads)
        return merged[np.argsort(order)]


def _torch_forward(model: PreTrainedModel, device: torch.device, precision: str) -> Forward:
    model = model.to(device).eval()
    for parameter in model.parameters():  # not the buffers: rotary frequencies are exact only in fp32
        parameter.data = parameter.data.to(_DTYPES[precision])

    @torch.inference_mode()
    def forward(*arrays: np.ndarray) -> torch.Tensor:
        tensors = [torch.from_numpy(array) for array in arrays]
        if device.type == "cuda":
            tensors = [tensor.pin_memory() for tensor in tensors]
        input_ids, attention_mask = (tensor.to(device, non_blocking=True) for tensor in tensors)
        return model(input_ids=input_ids, attention_mask=attention_mask).logits

    return forward


def to_openvino(model: PreTrainedModel):
    """Return the model as an `openvino.Model`: `input_ids` and `attention_mask` of any shape in, logits out.

    Raises:
        RuntimeError: for a model that OpenVINO cannot convert, or whose graph would depend on the shape of its inputs.
    """
    from openvino.frontend import FrontEndManager, OpConversionFailure
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    ids = torch.arange(16).view(2, 8), torch.arange(39).view(3, 13)
    example, other = ({"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)} for input_ids in ids)
    frontend = FrontEndManager().load_by_framework("pytorch")
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.loss_function = None  # tracing reads every attribute, and transformers would warn about the loss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing fixes branches; tests compare other shapes with torch
        decoder = TorchScriptPythonDecoder(  # must outlive the conversion; check_trace would trace a second time
            model.eval(), example_input=example, trace_kwargs={"check_trace": False}
        )
        with torch.inference_mode():
            if not torch.allclose(decoder.pt_module(**other)["logits"], model(**other).logits, atol=1e-4):
                raise RuntimeError("its graph holds for texts of one length only")
        try:
            graph = frontend.convert(frontend.load(decoder))
        except OpConversionFailure as error:
            raise RuntimeError(str(error).split("Summary:")[-1].strip() or "its graph") from error
    graph.validate_nodes_and_infer_types()
    return graph


def compile_openvino(graph: object, config: dict[str, object]) -> Forward:
    """Return a function that runs a graph, or a file with one, on the CPU; several threads may call it at once.

    On a CPU with AMX, OpenVINO 2026.4 gives the compiling thread a signal stack of its own, and frees this memory with
    the model: the next signal would kill the process (SIGSEGV). So we compile on a thread that ends.

    In bf16 with AMX, OpenVINO fuses gated layers (a product times the activation of another, as in Llama, Qwen and
    Mistral) and divides the work among half of a stream's threads: with one thread, the process dies of SIGFPE
    (openvino #33300). ModernBERT is not affected: it computes both products as one.

    Raises:
        RuntimeError: if OpenVINO cannot run the graph, or would crash.
    """
    import openvino

    if config["INFERENCE_PRECISION_HINT"] == "bf16":
        activations = [node for node in graph.get_ops() if node.get_type_name() in ("Swish", "Gelu")]
        readers = [reader.get_node() for node in activations for reader in node.output(0).get_target_inputs()]
        factors = [factor for node in readers if node.get_type_name() == "Multiply" for factor in node.input_values()]
        if any(factor.get_node().get_type_name() == "MatMul" for factor in factors):
            raise RuntimeError("it divides by zero for gated layers in bf16")
    with _RUNNING, ThreadPoolExecutor(1) as thread:
        compiled = thread.submit(openvino.Core().compile_model, graph, "CPU", config).result()
    _COMPILED.add(compiled)
    per_thread = threading.local()  # a request serves one thread; a new one per batch would cost a sixth of the speed

    def forward(input_ids: np.ndarray, attention_mask: np.ndarray) -> torch.Tensor:
        if not hasattr(per_thread, "request"):
            per_thread.request = compiled.create_infer_request()
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return torch.from_numpy(per_thread.request.infer(inputs)[0].copy())

    return forward


def _begin_fork() -> None:
    """Set up a fork: release the lock and let torch use one thread. The fork's engines compile their models again."""
    _RUNNING.release()
    torch.set_num_threads(1)  # only the parent has the others: loading a model would wait for them, or crash
    for compiled in _COMPILED:  # never freed: that would join threads that only the parent has, and abort
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(compiled))


def compress_weights(graph) -> None:
    """Store weights of linear layers as int8 with one scale per row; OpenVINO quantises activations at run time.

    Symmetric: weight = int8 * scale, where scale = max |weight| / 127 over the row of an output. The graph also stores
    how many activations share a scale.
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


if hasattr(os, "register_at_fork"):  # Windows has no fork
    register = os.register_at_fork  # noqa: TID251
    register(before=_RUNNING.acquire, after_in_parent=_RUNNING.release, after_in_child=_begin_fork)
