"""Options of fine-tuning, with their defaults and their help, said once.

The defaults are the values of recipes/indonlu.yaml. A recipe or the command line gives only what it changes.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import SchedulerType, TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.training_args import OptimizerNames

from smsa.cli import require_ranges
from smsa.errors import UserError
from smsa.files import hash_file
from smsa.models.loading import BUNDLED
from smsa.runtime import PRECISIONS, resolve_precision, set_cpu_threads, world_size


@dataclass
class ModelArguments:
    """Which base model to fine-tune, how much of a text it reads, and which of its weights stay as they are."""

    model_name_or_path: str = HfArg(
        default="indobenchmark/indobert-base-p1",
        help="Base model: a name on the Hub, a folder, 'mini' for the small bundled one (see recipes/mini.yaml), or "
        "'scratch' for a small BERT with random weights (see recipes/scratch.yaml). These two need a far higher "
        "learning rate.",
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of the model on the Hub, if not main.")
    max_length: int = HfArg(default=512, help="Tokens per text, special tokens included; longer texts are truncated.")
    freeze_embeddings: bool = HfArg(default=False, help="Freeze the embeddings of the encoder.")
    freeze_layers: int = HfArg(default=0, help="Freeze the first K layers of the encoder.")
    freeze_matrices: bool = HfArg(
        default=False, help="Train biases, norms and the head only (BitFit): freeze the encoder's matrices."
    )


class Schedule(str):
    """Name of a learning rate schedule. Trainer's model card reads its `value`, which a plain string lacks."""

    value = property(str)


EPOCH_STEP = Schedule("epoch_step")  # the reference's schedule; lr_scheduler_type accepts it beside Trainer's
# replaces group_by_length once parsed: under that name, Trainer would also reorder predictions
LENGTH_GROUPS = "length_groups"
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")  # the launcher sets ACCELERATE_USE_<name>
# Options with one accepted value. smsa needs it to train on every text once, to evaluate every text, to resume exactly,
# and to push only finished models. A *_full_eval option would leave and save the model in half precision. A persistent
# worker keeps its own copy of the collator, which would not learn the epoch.
_FIXED = {"dataloader_drop_last": False, "average_tokens_across_devices": True, "dataloader_persistent_workers": False}
_FIXED |= {"restore_callback_states_from_checkpoint": False, "ignore_data_skip": False, "resume_from_checkpoint": None}
_FIXED |= {"split_batches": False, "even_batches": True, "use_seedable_sampler": True, "dispatch_batches": None}
_FIXED |= {"batch_eval_metrics": False, "eval_do_concat_batches": True, "prediction_loss_only": False}
_FIXED |= {"fp16_full_eval": False, "bf16_full_eval": False, "label_names": None, "logging_nan_inf_filter": False}
_FIXED |= {"hub_strategy": "every_save", "hub_always_push": False}  # without effect, since Trainer never pushes
# Options that have an effect only while another option has the given value.
_GOES_WITH = {f"{event}_steps": (f"{event}_strategy", "steps") for event in ("logging", "save", "eval")}
_GOES_WITH |= {"evaluate_every": ("eval_strategy", "epoch"), "hub_private_repo": ("push_to_hub", True)}


@dataclass
class RunArguments(TrainingArguments):
    """Trainer's arguments for a run that may be killed and resumed; only the fields that differ are repeated here.

    Creating one sets up this process: device, precision (`fp16` and `bf16` follow from `precision`) and CPU threads.

    Raises:
        UserError: for values that contradict each other or could not take effect; if several processes were launched
            but cannot see each other, or one process sees several GPUs.
    """

    early_stopping_patience, ema_decay, fast_kernels = 0, 0.0, False  # only fine-tuning has options for these

    resume: Literal["auto"] | None = HfArg(
        default=None,
        help="auto: resume from the newest whole checkpoint in --output_dir; start if there is none; do nothing if the "
        "run is finished.",
    )
    num_train_epochs: float = HfArg(default=10, help="Maximum number of epochs.")
    precision: Literal[*PRECISIONS] = HfArg(
        default="auto", help="auto: what the launcher asks for, else what is fast on the device; no: fp32."
    )
    num_threads: int | None = HfArg(default=None, help="CPU threads of each process; if not given, an equal share.")
    optim: str | None = HfArg(
        default=None,
        help="Optimiser, one of Trainer's. If not given: adamw_torch in fp32, which without weight decay is the "
        "reference's Adam to the bit; adamw_torch_fused in half precision and with --fast_kernels.",
    )
    save_total_limit: int | None = HfArg(default=3, help="How many checkpoints to keep: the newest, and the best.")
    eval_strategy: str = HfArg(default="epoch", help="When to evaluate on valid: no, steps or epoch.")
    save_strategy: str = HfArg(default="epoch", help="When to save a checkpoint: no, steps, epoch, best.")
    logging_strategy: str = HfArg(default="epoch", help="When to log the loss: no, steps or epoch.")
    push_to_hub: bool = HfArg(default=False, help="Push the finished model to the Hub, once, at the end.")
    # Trainer's `bool | None` would need a value on the command line
    hub_private_repo: bool = HfArg(default=False, help="Make a new repository on the Hub private.")
    disable_tqdm: bool = False  # Trainer's default follows the verbosity of transformers, which scripts lower
    log_level_replica: str = "error"  # Trainer's default logs warnings on all ranks but the first
    logging_nan_inf_filter: bool = False  # Trainer's default shows the mean of earlier losses in place of a NaN
    ddp_find_unused_parameters: bool = False  # every trained parameter takes part in each step

    def __post_init__(self) -> None:
        require_ranges(self)
        flags = [name for name in ("fp16", "bf16") if getattr(self, name)]  # alternatives to `precision`
        sharding = [name for name in _SHARDING if parse_flag_from_env(f"ACCELERATE_USE_{name}")]
        sharding += ["DeepSpeed or FSDP"] if self.deepspeed or self.fsdp else []
        wrong = {
            "hub_token would be written to disk: run `hf auth login`, or set HF_TOKEN.": self.hub_token,
            "--push_to_hub and --hub_model_id NAME go together.": self.push_to_hub != (self.hub_model_id is not None),
            "--warmup_steps, --lr_scheduler_kwargs have no effect with epoch_step: give another --lr_scheduler_type.": (
                (self.warmup_steps or self.lr_scheduler_kwargs) and self.lr_scheduler_type == EPOCH_STEP
            ),
            "--train_sampling_strategy batch_rebalance uses texts of a short last step twice: choose another.": (
                self.train_sampling_strategy == "batch_rebalance"
            ),
            f"--precision {self.precision} contradicts {' and '.join(flags)}: give only --precision.": (
                len(flags) > 1 or (flags and self.precision not in ("auto", *flags))
            ),
            f"{', '.join(sharding)} cannot be used: each process must hold the whole model. Launch with a file of "
            "configs/accelerate/, or answer no to it in `accelerate config`.": sharding,
        }
        for name, (other, value) in _GOES_WITH.items():
            field = self.__dataclass_fields__.get(name)  # None: pre-training has no evaluate_every
            is_given = field and getattr(self, name) != field.default
            wrong[f"--{name} needs --{other} {value}."] = is_given and getattr(self, other) != value
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise UserError(message)

        # Trainer would push checkpoints and a pickle; scripts/finetune.py pushes the finished model
        self.pushes_to_hub, self.push_to_hub = self.push_to_hub, False
        if not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU"):
            self.use_cpu = True  # else each of N launched CPU processes would see a world size of 1
        device = "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type
        in_effect = resolve_precision(flags[0] if flags else self.precision, device)
        self.fp16, self.bf16 = in_effect == "fp16", in_effect == "bf16"
        if self.optim is None:
            is_half = in_effect != "no" or self.fast_kernels
            self.optim = OptimizerNames.ADAMW_TORCH_FUSED if is_half else OptimizerNames.ADAMW_TORCH
        schedule = self.lr_scheduler_type
        if schedule == EPOCH_STEP:
            self.lr_scheduler_type = SchedulerType.CONSTANT  # passes Trainer's check; restored below
        if self.use_cpu and world_size() > 1:  # Trainer applies ddp_timeout only on GPUs
            PartialState(cpu=True, backend=self.ddp_backend, timeout=self.ddp_timeout_delta)
        super().__post_init__()
        if self.greater_is_better and self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            self.lr_scheduler_kwargs = {"mode": "max"} | (self.lr_scheduler_kwargs or {})  # by default they minimise
        self.lr_scheduler_type = EPOCH_STEP if schedule == EPOCH_STEP else self.lr_scheduler_type
        if self.train_sampling_strategy == "group_by_length":
            self.train_sampling_strategy = LENGTH_GROUPS
        # else the copy of a batch to the GPU waits for the previous step
        self.accelerator_config.non_blocking = self.device.type == "cuda"
        self.mixed_precision = in_effect  # else Trainer follows the launcher where fp16 and bf16 are both False
        for name, value in _FIXED.items():
            if getattr(self, name, getattr(self.accelerator_config, name, None)) != value:
                raise UserError(
                    f"{name} must stay {value}: leave it out. Another value would use a text twice or never, make "
                    "--resume auto inexact, override --precision, or push an unfinished model."
                )
        if self.world_size != world_size():
            raise UserError(
                f"{world_size()} processes were launched, but this one sees {self.world_size}: each would train alone "
                "and overwrite the others. Launch with configs/accelerate/cpu.yaml or multi_gpu.yaml."
            )
        if self.n_gpu > 1:
            raise UserError(
                f"One process sees {self.n_gpu} GPUs and would run torch's slow DataParallel. Use them all with "
                f"accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes {self.n_gpu}, "
                "or one of them with CUDA_VISIBLE_DEVICES=0."
            )
        set_cpu_threads(self.num_threads)


@dataclass
class SentimentTrainingArguments(RunArguments):
    """Arguments of fine-tuning, with the defaults of the reference recipe.

    Raises:
        UserError: for values that contradict each other or could not take effect; also what `RunArguments` raises.

    Source of the values: the tutorial's `train()`, with options of IndoNLU's runner, https://github.com/IndoNLP/indonlu
    """

    output_dir: str = HfArg(
        default="runs/indonlu", help="Folder for all that the run leaves; new or empty, unless --resume is given."
    )
    learning_rate: float = HfArg(default=1e-5, help="Learning rate in the first epoch.")
    lr_scheduler_type: Literal[EPOCH_STEP, *(kind.value for kind in SchedulerType)] = HfArg(
        default=EPOCH_STEP,
        help="epoch_step multiplies the learning rate by lr_gamma every lr_step_size epochs, as the reference "
        "does; the others are Trainer's.",
    )
    lr_step_size: int = HfArg(default=1, help="Epochs between two decays by epoch_step.")
    lr_gamma: float = HfArg(default=0.9, help="Factor of each decay by epoch_step; 1 keeps the learning rate.")
    max_grad_norm: float = HfArg(default=10.0, help="Global norm to which gradients are clipped; 0 does not clip.")
    class_weights: str = HfArg(
        default="none",
        help="Weights of the labels in the training loss: none, balanced (inverse to their counts, mean 1), or "
        "one number per label, comma-separated, in label order. The loss on valid has no weights.",
    )
    per_device_train_batch_size: int = HfArg(
        default=32, help="Texts per batch in each process. The recipe's batch is this times the processes."
    )
    per_device_eval_batch_size: int = HfArg(default=64, help="Texts per batch in evaluation.")
    seeds: list[int] | None = HfArg(
        default=None,
        help="Several seeds instead of --seed. Each has its folder OUTPUT_DIR/seed-<seed>; seeds.json has their mean "
        "and standard deviation.",
    )
    evaluate_every: int = HfArg(default=1, help="Epochs between two evaluations on valid.")
    metric_for_best_model: str = HfArg(
        default="f1",
        help="Metric on valid that chooses the epoch: accuracy, f1, recall, precision (macro), loss, or f1_<label>.",
    )
    early_stopping_patience: int = HfArg(default=3, help="Evaluations without improvement before it stops; 0: never.")
    load_best_model_at_end: bool = HfArg(default=True, help="Keep the best epoch on valid; false: the last one.")
    ema_decay: float = HfArg(
        default=0.0,
        help="Evaluate and keep an exponential moving average (EMA) of the weights instead of the weights, over about "
        "the last 1 / (1 - ema_decay) steps; 0: none.",
    )
    rdrop_alpha: float = HfArg(
        default=0.0,
        help="Weight of R-Drop: each text is computed twice with different dropout, and the difference between the two "
        "predictions is added to the loss. Takes almost twice as long; 0: none.",
    )
    fast_kernels: bool = HfArg(
        default=False,
        help="Train faster. Rounding and dropout differ from the reference's, and a GPU needs more memory: see "
        "docs/speed.md. recipes/fast.yaml has it, with train_sampling_strategy group_by_length.",
    )

    def __post_init__(self) -> None:
        self.metric_for_best_model = str(self.metric_for_best_model).removeprefix("eval_")  # Trainer accepts both
        if self.greater_is_better is None:  # Trainer minimises any name that ends in loss, as a label may
            is_of_label = self.metric_for_best_model.startswith(("f1_", "recall_", "precision_"))
            self.greater_is_better = is_of_label or not self.metric_for_best_model.endswith("loss")
        super().__post_init__()
        is_too_short = self.max_steps <= 0 and self.evaluate_every > math.ceil(self.num_train_epochs)
        if self.load_best_model_at_end and is_too_short:
            raise UserError(f"evaluate_every {self.evaluate_every} leaves no evaluation to choose by: lower it.")
        seeds = self.seeds or []
        if len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
            raise UserError(f"--seeds {' '.join(map(str, seeds))}: give each seed once, from 0 to 2**32 - 1.")
        if self.ema_decay and self.optim not in ("adamw_torch", "adamw_torch_fused"):
            raise UserError("--ema_decay needs AdamW: leave --optim out.")
        if self.seeds is not None and self.pushes_to_hub:
            raise UserError("--seeds trains several models: use scripts/push.py, not --push_to_hub and --hub_model_id.")


# Options that do not change the result of a run, and files, of which the sha256 is recorded.
_NOT_SETTINGS = frozenset(
    "output_dir resume seeds use_cpu num_threads report_to disable_tqdm run_name do_eval greater_is_better hub_token "
    "log_level log_level_replica logging_nan_inf_filter logging_steps logging_strategy save_total_limit "
    "save_only_model project push_to_hub hub_model_id hub_private_repo hub_revision precision fp16 bf16 "
    "dataloader_num_workers dataloader_pin_memory ddp_find_unused_parameters accelerator_config data_dir train_file "
    "valid_file test_file corpus_dir add_tokens".split()
)


def describe_settings(*groups: object, hashes: dict[str, str]) -> dict[str, object]:
    """Return all that decides the result of a run, except hardware and versions, as plain values by name.

    Args:
        groups: the argument objects: the base model's first, the training arguments last. A field that is inherited
            unchanged from Trainer's arguments is included if it differs from its default, or is the seed.
        hashes: sha256 of each file that the run reads, by what the file is. That of a local base model is added.
    """
    base = groups[0].model_name_or_path
    base = Path(BUNDLED.get(base, base), "model.safetensors")
    hashes = hashes | ({"the base model": hash_file(base)} if base.is_file() else {})
    settings, of_trainer = {}, TrainingArguments.__dataclass_fields__
    for group in groups:
        values = group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
        for name, field in type(group).__dataclass_fields__.items():
            is_unset = values[name] is False or values[name] in (field.default, None, [], {})  # `is`, since 0 == False
            is_as_in_trainer = field is of_trainer.get(name) and is_unset and name != "seed"
            if name not in _NOT_SETTINGS and not is_as_in_trainer:
                settings[name] = values[name]
    settings |= {"precision": groups[-1].mixed_precision, "world_size": groups[-1].world_size}
    settings |= {f"sha256 of {name}": digest for name, digest in hashes.items()}
    return json.loads(json.dumps(settings, default=str, sort_keys=True))
