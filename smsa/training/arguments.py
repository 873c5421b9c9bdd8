"""Options of fine-tuning, with their defaults and their help, said once.

The defaults are those of the `indonlu` recipe; a recipe or the command line only changes them.
"""

import dataclasses
import math
import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from smsa.cli import require_ranges
from smsa.data.arguments import DataArguments
from smsa.distributed import count_processes
from smsa.errors import UserError
from smsa.models.devices import PRECISIONS, resolve_precision, set_cpu_threads


@dataclass
class ModelArguments:
    """Which encoder to start from, and which of its weights stay as they are."""

    model_name_or_path: str = field(
        default="indobenchmark/indobert-base-p1",
        metadata={
            "help": "Encoder: a name on the Hub, a folder, 'mini' for the small one that comes with smsa (see "
            "recipes/mini.yaml), or 'scratch' for a small BERT that starts from nothing (see recipes/scratch.yaml); "
            "the rate of these two is far higher."
        },
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the encoder on the Hub; its main branch if not given."},
    )
    freeze_embeddings: bool = field(default=False, metadata={"help": "Keep the embeddings of the encoder fixed."})
    freeze_layers: int = field(default=0, metadata={"help": "Keep the first K layers of the encoder fixed."})

    def __post_init__(self) -> None:
        require_ranges(self)


_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")  # as the launcher's environment names them


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true", "yes")


@dataclass
class RunArguments(TrainingArguments):
    """Trainer's arguments for a run that may be killed and gone on with; only the fields that differ are repeated here.

    Building it sets this process up: device, precision (`fp16` and `bf16` follow from `precision`) and CPU threads.

    Raises:
        ValueError: for values that contradict each other or could not take effect.
        RuntimeError: if several processes were launched but cannot see each other, or one process sees several GPUs.
    """

    changeable = ()  # names of the options that `allow_changes` may name
    without_effect = ("lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor")  # Trainer's, not taken here
    allow_changes: str | None = None
    early_stopping_patience = 0  # evaluations; 0 never stops early
    ema_decay = 0.0  # of an average of the weights; 0 for none

    resume: str | None = field(
        default=None,
        metadata={
            "help": "auto: go on from the newest whole checkpoint in --output_dir; start where there is none yet; do "
            "nothing where the run is finished.",
            "choices": ["auto"],
        },
    )
    num_train_epochs: float = field(default=10, metadata={"help": "Epochs at the most."})
    max_steps: int = field(default=-1, metadata={"help": "Optimiser steps at the most, if positive; overrides epochs."})
    gradient_accumulation_steps: int = field(
        default=1, metadata={"help": "Batches whose gradients make one step; the loss stays the mean over all of them."}
    )
    seed: int = field(default=42, metadata={"help": "Seed of the new head, the order of texts and dropout."})
    adam_beta1: float = field(default=0.9, metadata={"help": "Adam's beta 1."})
    adam_beta2: float = field(default=0.999, metadata={"help": "Adam's beta 2."})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "Adam's epsilon."})
    precision: str = field(
        default="auto",
        metadata={
            "help": "auto: what the launcher asks for, else what the device does well; no is fp32.",
            "choices": list(PRECISIONS),
        },
    )
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU even where there is a GPU."})
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of each process; an equal share of the cores if not given."}
    )
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that prepare batches, per process."})

    # Not options of the scripts: what the rest relies on.
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    logging_strategy: str = "epoch"
    log_level_replica: str = "error"  # Trainer's default speaks up from all processes but the first
    logging_nan_inf_filter: bool = False  # Trainer's default shows the mean of earlier losses in place of a NaN
    ddp_find_unused_parameters: bool = False  # every parameter that is trained takes part in each step

    @property
    def allowed_changes(self) -> tuple[str, ...]:
        """Names in `allow_changes`."""
        return tuple(name.strip() for name in (self.allow_changes or "").split(",") if name.strip())

    @property
    def rows_a_step(self) -> int:
        """Rows of one optimiser step, over accumulated batches and processes."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.hub_token:
            raise UserError("hub_token would be written to disk: run `hf auth login`, or set HF_TOKEN.")
        if self.push_to_hub != (self.hub_model_id is not None):
            raise UserError("--push_to_hub and --hub_model_id NAME go together.")
        if self.hub_private_repo and not self.push_to_hub:
            raise UserError("--hub_private_repo goes with --push_to_hub.")
        # the finished model goes up, by smsa.sharing.hub; Trainer would push checkpoints, too
        self.pushes_to_hub, self.push_to_hub = self.push_to_hub, False
        if self.fp16 or self.bf16:
            raise UserError(f"set precision ({', '.join(PRECISIONS)}) instead of fp16 or bf16.")
        if {self.eval_strategy, self.save_strategy, self.logging_strategy} != {"epoch"}:
            raise UserError("eval_strategy, save_strategy and logging_strategy must stay 'epoch'.")
        default = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
        for name in self.without_effect:
            if (getattr(self, name) or None) != (default[name] or None):
                raise UserError(f"{name} would have no effect here: leave it at {default[name]!r}.")
        if self.dataloader_drop_last:
            raise UserError("dataloader_drop_last must stay off: every text is trained on, and scored.")
        if self.restore_callback_states_from_checkpoint:
            raise UserError("restore_callback_states_from_checkpoint must stay off: smsa restores them itself.")
        fixed = [name for name in self.allowed_changes if name not in self.changeable]
        if fixed:
            can_change = ", ".join(self.changeable)
            raise UserError(f"allow_changes {','.join(fixed)}: only {can_change} can change within a run.")
        if not self.average_tokens_across_devices:
            raise UserError("average_tokens_across_devices must stay on: the loss is the mean over all processes.")
        sharding = [name for name in _SHARDING if _is_on(os.environ.get(f"ACCELERATE_USE_{name}", ""))]
        if sharding or self.deepspeed or self.fsdp:
            raise UserError(
                f"{sharding[0] if sharding else 'DeepSpeed or FSDP'}: each process must hold the whole model. Launch "
                "with a file of configs/accelerate/, or answer no to it in `accelerate config`."
            )
        if not torch.accelerator.is_available() or _is_on(os.environ.get("ACCELERATE_USE_CPU", "")):
            self.use_cpu = True  # without it, N launched CPU processes would each think that they are alone
        in_effect = resolve_precision(
            self.precision, "cpu" if self.use_cpu else torch.accelerator.current_accelerator().type
        )
        self.fp16, self.bf16 = in_effect == "fp16", in_effect == "bf16"
        super().__post_init__()
        # else each batch on its way to a GPU waits for the step before it
        self.accelerator_config.non_blocking = self.device.type == "cuda"
        self.mixed_precision = in_effect  # Trainer reads the launcher's wish where fp16 and bf16 are both False
        if self.accelerator_config.split_batches or not self.accelerator_config.even_batches:
            raise UserError(
                "split_batches and even_batches must stay as they are: by them smsa tells which texts the last step of "
                "an epoch repeats."
            )

        n_launched = count_processes()
        if self.world_size != n_launched:
            raise RuntimeError(
                f"{n_launched} processes were launched, but this one sees {self.world_size}: each would train alone "
                "and overwrite the others. Launch with configs/accelerate/cpu.yaml or multi_gpu.yaml."
            )
        if self.n_gpu > 1:
            raise RuntimeError(
                f"One process sees {self.n_gpu} GPUs and would run torch's slow DataParallel. Use them all with "
                f"accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes {self.n_gpu}, "
                "or one of them with CUDA_VISIBLE_DEVICES=0."
            )
        set_cpu_threads(self.num_threads)


@dataclass
class SentimentTrainingArguments(RunArguments):
    """Arguments of fine-tuning, with the defaults of the reference recipe.

    Raises:
        ValueError: for values that contradict each other or could not take effect; and as `RunArguments`.

    Source of the values: the tutorial's `train()` with those of IndoNLU's runner, https://github.com/IndoNLP/indonlu
    """

    # Options that take effect in the middle of a run. Others would not, as the rate of the checkpoint wins, or would
    # mix two runs.
    changeable = (
        "num_train_epochs",
        "early_stopping_patience",
        "class_weights",
        "max_grad_norm",
        "per_device_eval_batch_size",
        "precision",
        "fast_kernels",
        "model_name_or_path",
        "model_revision",
    )
    without_effect = (*RunArguments.without_effect, "optim", "optim_args", "weight_decay", "warmup_steps")

    output_dir: str = field(
        default="runs/indonlu",
        metadata={"help": "Folder for all that the run leaves; new or empty, unless --resume is given."},
    )
    allow_changes: str | None = field(
        default=None,
        metadata={
            "help": "Options, comma-separated, that may differ from those the run was started with, for instance "
            f"num_train_epochs to train for longer. These can: {', '.join(changeable)}."
        },
    )
    learning_rate: float = field(default=1e-5, metadata={"help": "Adam's rate in the first epoch."})
    lr_step_size: int = field(default=1, metadata={"help": "Epochs between decays of the rate (StepLR step_size)."})
    lr_gamma: float = field(default=0.9, metadata={"help": "Factor of each decay (StepLR gamma); 1 keeps the rate."})
    max_grad_norm: float = field(
        default=10.0, metadata={"help": "Global gradient norm to which gradients are clipped; 0 does not clip."}
    )
    class_weights: str = field(
        default="none",
        metadata={
            "help": "Weights of the labels in the training loss: none, balanced (inverse to their counts, mean 1), or "
            "one number per label, comma-separated, in label order. The loss on valid has no weights."
        },
    )
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Texts a batch in each process. The recipe's batch is this times the processes."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Texts a batch in evaluation."})
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "Order of the training texts: random, sequential, or group_by_length (random, but batches of "
            "similar length, which is faster).",
            "choices": ["random", "sequential", "group_by_length"],
        },
    )
    seeds: list[int] | None = field(
        default=None,
        metadata={
            "help": "Several seeds in place of --seed: each has its folder OUTPUT_DIR/seed-<seed>, and seeds.json says "
            "mean and standard deviation."
        },
    )
    evaluate_every: int = field(default=1, metadata={"help": "Epochs between two evaluations on valid."})
    metric_for_best_model: str = field(
        default="f1",
        metadata={"help": "What valid is judged by: accuracy, f1, recall, precision (macro), loss, or f1_<label>."},
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Stop after this many evaluations without a better one; 0 never stops early."}
    )
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Keep the epoch that is best on valid, else the last one."}
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Judge and keep an average of the weights over the last 1 / (1 - ema_decay) steps or so in place "
            "of the weights themselves; 0 for none."
        },
    )
    rdrop_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Weight of R-Drop: each text is computed twice, with other dropout, and how far both answers "
            "differ is added to the loss. Takes almost twice as long; 0 for none."
        },
    )
    fast_kernels: bool = field(
        default=False,
        metadata={
            "help": "Train faster, with other rounding and other random numbers in dropout than the reference, and on "
            "a GPU with more memory: see docs/speed.md. recipes/fast.yaml has it, with train_sampling_strategy "
            "group_by_length."
        },
    )

    def __post_init__(self) -> None:
        self.greater_is_better = self.metric_for_best_model != "loss"  # Trainer takes f1_<a label> for one, by its end
        super().__post_init__()
        if (
            self.evaluate_every > math.ceil(self.num_train_epochs)
            and self.max_steps <= 0
            and self.load_best_model_at_end
        ):
            raise UserError(f"evaluate_every {self.evaluate_every} leaves no evaluation to choose the best epoch by.")
        if self.seeds is not None and (len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0):
            raise UserError(f"seeds {' '.join(map(str, self.seeds))}: give each once, from 0 on.")


def _all(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


# The options of scripts/finetune.py in the order of --help. Other fields of TrainingArguments are not options.
FINETUNE_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "model": (ModelArguments, _all(ModelArguments)),
    "data": (DataArguments, _all(DataArguments)),
    "optimiser and schedule": (
        SentimentTrainingArguments,
        ("learning_rate", "lr_step_size", "lr_gamma", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm")
        + ("class_weights", "ema_decay", "rdrop_alpha", "num_train_epochs", "max_steps"),
    ),
    "steps": (
        SentimentTrainingArguments,
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        + ("train_sampling_strategy", "fast_kernels", "seed"),
    ),
    "choosing the epoch": (
        SentimentTrainingArguments,
        ("evaluate_every", "metric_for_best_model", "early_stopping_patience", "load_best_model_at_end"),
    ),
    "hardware": (
        SentimentTrainingArguments,
        ("precision", "use_cpu", "num_threads", "dataloader_num_workers"),
    ),
    "output": (SentimentTrainingArguments, ("output_dir", "seeds", "resume", "allow_changes")),
}
