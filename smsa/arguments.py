"""Every option of the scripts that have many, with its default and its help, said once.

The defaults of training are those of the `indonlu` recipe; a recipe or the command line only changes them.
"""

import dataclasses
import math
import os
from dataclasses import dataclass, field

import torch
from transformers import PretrainedConfig, TrainingArguments

from smsa.hardware import PRECISIONS, resolve_precision, set_cpu_threads
from smsa.processes import count_processes

_POSITIVE = ("more than 0", lambda value: 0 < value < math.inf)
_FROM_ZERO = ("at least 0", lambda value: 0 <= value < math.inf)
_FROM_ONE = ("at least 1", lambda value: 1 <= value < math.inf)
_BELOW_ONE = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_SHARE = ("more than 0 and below 1", lambda value: 0 < value < 1)
_RANGES = {
    **dict.fromkeys(("learning_rate", "lr_gamma", "adam_epsilon", "num_train_epochs"), _POSITIVE),
    **dict.fromkeys(("max_grad_norm", "rdrop_alpha", "weight_decay", "warmup_steps", "decay_steps"), _FROM_ZERO),
    **dict.fromkeys(("freeze_layers", "early_stopping_patience", "dataloader_num_workers", "seed"), _FROM_ZERO),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), _FROM_ONE),
    **dict.fromkeys(("gradient_accumulation_steps", "lr_step_size", "evaluate_every", "num_threads"), _FROM_ONE),
    **dict.fromkeys(("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"), _FROM_ONE),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "ema_decay"), _BELOW_ONE),
    **dict.fromkeys(("mlm_probability", "held_out"), _SHARE),
}  # fmt: skip


def _require_ranges(arguments: object) -> None:
    """Refuse numbers that mean nothing, NaN with them; None is not given.

    Raises:
        ValueError: naming the option, its value and what is accepted.
    """
    for name, (words, is_within) in _RANGES.items():
        value = getattr(arguments, name, None)
        if value is not None and not is_within(value):
            raise ValueError(f"{name} is {value}; it must be {words}.")


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
        _require_ranges(self)


@dataclass
class DataArguments:
    """Where labelled texts come from and how they are cut."""

    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with SmSA's train_preprocess.tsv, valid_preprocess.tsv and, optionally, "
            "test_preprocess.tsv. If not given: $SMSA_DATA_DIR if set, else ./data/smsa if there, else a download."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own training file in place of SmSA: .tsv (no header: text, tab, label), .csv, .jsonl or "
            ".parquet. Needs --valid_file too."
        },
    )
    valid_file: str | None = field(default=None, metadata={"help": "Your own validation file."})
    test_file: str | None = field(default=None, metadata={"help": "Your own labelled test file."})
    text_column: str = field(default="text", metadata={"help": "Column of texts in .csv, .jsonl and .parquet files."})
    label_column: str = field(default="label", metadata={"help": "Column of labels in those files."})
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Label names, comma-separated, in the order of their ids, for example negatif,netral,positif. "
            "If not given: the names that a fine-tuned model carries, else positive,neutral,negative."
        },
    )
    max_length: int = field(
        default=512, metadata={"help": "Word pieces per text, special tokens included; longer texts are cut."}
    )


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
        _require_ranges(self)
        if self.hub_token or self.push_to_hub:
            raise ValueError("hub_token and push_to_hub are not taken here: Trainer would write the token to disk.")
        if self.fp16 or self.bf16:
            raise ValueError(f"set precision ({', '.join(PRECISIONS)}) instead of fp16 or bf16.")
        if {self.eval_strategy, self.save_strategy, self.logging_strategy} != {"epoch"}:
            raise ValueError("eval_strategy, save_strategy and logging_strategy must stay 'epoch'.")
        default = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
        for name in self.without_effect:
            if (getattr(self, name) or None) != (default[name] or None):
                raise ValueError(f"{name} would have no effect here: leave it at {default[name]!r}.")
        if self.dataloader_drop_last:
            raise ValueError("dataloader_drop_last must stay off: every text is trained on, and scored.")
        if self.restore_callback_states_from_checkpoint:
            raise ValueError("restore_callback_states_from_checkpoint must stay off: smsa restores them itself.")
        fixed = [name for name in self.allowed_changes if name not in self.changeable]
        if fixed:
            can_change = ", ".join(self.changeable)
            raise ValueError(f"allow_changes {','.join(fixed)}: only {can_change} can change within a run.")
        if not self.average_tokens_across_devices:
            raise ValueError("average_tokens_across_devices must stay on: the loss is the mean over all processes.")
        sharding = [name for name in _SHARDING if _is_on(os.environ.get(f"ACCELERATE_USE_{name}", ""))]
        if sharding or self.deepspeed or self.fsdp:
            raise ValueError(
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
            raise ValueError(
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
            raise ValueError(f"evaluate_every {self.evaluate_every} leaves no evaluation to choose the best epoch by.")
        if self.seeds is not None and (len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0):
            raise ValueError(f"seeds {' '.join(map(str, self.seeds))}: give each once, from 0 on.")


SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass
class EncoderArguments:
    """Which encoder to go on pre-training, or the shape of a new one."""

    model_name_or_path: str = field(
        default="indobenchmark/indobert-base-p1",
        metadata={
            "help": "Encoder: a name on the Hub, a folder, 'mini' for the small one that comes with smsa, or 'new' for "
            "a ModernBERT of the shape below."
        },
    )
    model_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of the encoder on the Hub; its main branch if not given."},
    )
    add_tokens: str | None = field(
        default=None,
        metadata={
            "help": "File of words, one a line, that become word pieces of their own; each starts as the mean of the "
            "pieces that it was cut into."
        },
    )
    vocab_size: int = field(default=12_000, metadata={"help": "Word pieces of a new encoder, learned from the texts."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of a new encoder."})
    hidden_size: int = field(default=256, metadata={"help": "Width of a new encoder."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads of a new encoder."})
    intermediate_size: int = field(default=384, metadata={"help": "Width of its gated feed-forward layers."})

    def __post_init__(self) -> None:
        if self.model_name_or_path == "scratch":
            raise ValueError("'scratch' learns from labelled texts alone; a new encoder is --model_name_or_path new.")
        _require_ranges(self)
        if self.model_name_or_path != "new":
            return
        if self.add_tokens:
            raise ValueError("--add_tokens goes with an encoder that is there: a new one learns its words by itself.")
        if self.model_revision:
            raise ValueError("--model_revision goes with a name on the Hub: a new encoder has none.")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be a multiple of twice the {self.num_attention_heads} "
                "attention heads."
            )

    def require_shape_of(self, config: PretrainedConfig) -> None:
        """Refuse a shape that is neither the default nor that of the encoder to go on with.

        Raises:
            ValueError: naming the option and both values.
        """
        for name in SHAPE:
            asked, default, found = getattr(self, name), getattr(EncoderArguments, name), getattr(config, name, None)
            if asked not in (default, found):
                raise ValueError(
                    f"{name} is {asked}, but that of {self.model_name_or_path} is {found} and stays; a new encoder is "
                    "--model_name_or_path new."
                )


@dataclass
class CorpusArguments:
    """Which texts to pre-train on."""

    sources: list[str] = field(
        metadata={
            "help": "Text files, one text a line, each with how often an epoch sees it if not once: tweets.txt=2 "
            "laws.txt=0.25, which stands for a quarter of its texts, the same in each epoch. 'smsa' stands for the "
            "training texts of SmSA."
        }
    )
    corpus_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which the sources lie. If not given: $SMSA_CORPUS_DIR if set, else where you are."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with SmSA, for the source smsa: as in scripts/finetune.py."}
    )
    keep_out: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files by whose texts models will be judged, one a line: every text that shares eight words in a "
            "row with one of theirs, or is the same, is left out. 'smsa' stands for SmSA's valid and test."
        },
    )
    held_out: float = field(
        default=0.01, metadata={"help": "Share of the texts by which the model is judged after each epoch."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Word pieces a row; texts follow one another in it, divided by [SEP]."}
    )

    def __post_init__(self) -> None:
        _require_ranges(self)
        if self.max_length < 8:
            raise ValueError(f"max_length is {self.max_length}; a row needs at least 8 word pieces.")


@dataclass
class PretrainingArguments(RunArguments):
    """Arguments of masked-language-model pre-training.

    Raises:
        ValueError: as `RunArguments`, and for values that could not take effect.
    """

    changeable = ("num_train_epochs", "per_device_eval_batch_size", "precision")

    output_dir: str = field(
        default="runs/pretrained",
        metadata={"help": "Folder for all that the run leaves; new or empty, unless --resume is given."},
    )
    allow_changes: str | None = field(
        default=None,
        metadata={
            "help": "Options, comma-separated, that may differ from those the run was started with: "
            f"{', '.join(changeable)}."
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's rate between warm-up and decay."})
    warmup_steps: int = field(default=500, metadata={"help": "Steps in which the rate rises to its full value."})
    decay_steps: int = field(
        default=2000,
        metadata={
            "help": "Last steps, in which the rate falls to 0. Before them it is constant, so that a run can be "
            "lengthened."
        },
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay."})
    adam_beta2: float = field(default=0.98, metadata={"help": "AdamW's beta 2."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "AdamW's epsilon."})
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Global gradient norm to which gradients are clipped; 0 does not clip."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows a batch in each process."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Rows a batch in evaluation."})
    seed: int = field(
        default=42, metadata={"help": "Seed of the order of texts, the masks, and what starts at random."}
    )
    mlm_probability: float = field(default=0.2, metadata={"help": "Share of the word pieces that are masked."})
    compile_encoder: bool = field(
        default=False,
        metadata={
            "help": "Compile the encoder by torch.compile: a small one is 1.3 times as fast on a CPU with AMX. Takes "
            "half a minute at the start, and a C++ compiler."
        },
    )


@dataclass
class HubArguments:
    """Where the finished model goes. These are not Trainer's own, which would push checkpoints and pickles, too."""

    push_to_hub: bool = field(
        default=False,
        metadata={
            "help": "Put the finished model on the Hugging Face Hub, as scripts/push.py does; access is checked before "
            "training, which makes the repository. The token is that of `hf auth login`, or HF_TOKEN."
        },
    )
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Its name there: NAMESPACE/NAME, or a name in your own namespace."}
    )
    hub_private_repo: bool = field(default=False, metadata={"help": "Make a new repository private."})

    def __post_init__(self) -> None:
        if self.push_to_hub != (self.hub_model_id is not None):
            raise ValueError("--push_to_hub and --hub_model_id NAME go together.")
        if self.hub_private_repo and not self.push_to_hub:
            raise ValueError("--hub_private_repo goes with --push_to_hub.")


@dataclass
class ScoringArguments:
    """Which texts to label, with which model, and what to write."""

    input: list[str] = field(
        metadata={
            "help": "Files, globs or folders: .csv, .tsv, .jsonl, .parquet, .txt (a text a line), all but Parquet also "
            "with .gz or .zst; - is stdin."
        }
    )
    output: str = field(
        metadata={
            "help": "File to write: .csv, .tsv, .jsonl or .parquet, also .gz or .zst; a folder for a file for each "
            "input; - is stdout. It appears when all is done."
        }
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tuned model: a folder, or a name on the Hub. If not given: mini-sentiment, which comes with "
            "smsa."
        },
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the model on the Hub; its main branch if not given."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of texts; if not given, the only sensible one is taken."}
    )
    input_format: str | None = field(
        default=None,
        metadata={
            "help": "Format of the input instead of its suffix; of stdin, txt if not given.",
            "choices": ["csv", "tsv", "jsonl", "parquet", "txt"],
        },
    )
    format: str | None = field(
        default=None,
        metadata={
            "help": "Format of the output instead of its suffix; of stdout, jsonl if not given. submission is the "
            "benchmark's index,label.",
            "choices": ["csv", "tsv", "jsonl", "parquet", "submission"],
        },
    )
    labels_only: bool = field(default=False, metadata={"help": "Add the label alone, without probabilities."})
    explain: bool = field(
        default=False,
        metadata={
            "help": "Add a column, words, that says what each word of a text weighs for its label: see "
            "docs/explaining.md. Slower by about ten times the words of a text."
        },
    )
    prefix: str = field(default="", metadata={"help": "What the names of the added columns begin with."})
    on_bad_row: str = field(
        default="strict",
        metadata={
            "help": "strict: stop before anything is written. skip: put bad rows into OUTPUT.rejects.jsonl.",
            "choices": ["strict", "skip"],
        },
    )


@dataclass
class EngineArguments:
    """Where and how a model labels texts: what `SentimentClassifier` takes under the same names."""

    max_length: int = field(
        default=512,
        metadata={
            "help": "Word pieces per text, special tokens included; longer texts are cut. Give that of training."
        },
    )
    device: str | None = field(
        default=None,
        metadata={
            "help": "cpu, cuda (in a launch, a GPU for each process) or cuda:N; if not given, cuda where there is one."
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "auto: what the launcher asks for, else fp16 on a GPU, bf16 on a CPU fast in it (AMX; AMD with "
            "avx512_bf16), and no (fp32) elsewhere. int8 needs OpenVINO and shifts probabilities by about 0.01.",
            "choices": [*PRECISIONS, "int8"],
        },
    )
    backend: str = field(
        default="auto",
        metadata={
            "help": "auto: OpenVINO on a CPU where it is installed, else torch.",
            "choices": ["auto", "torch", "openvino"],
        },
    )
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU cores of each process; an equal share if not given."}
    )
    batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Word pieces a batch, pads included; if not given, 1,024 on a CPU and 65,536 on a GPU. Fewer need "
            "less memory; they move the last digits of probabilities."
        },
    )


@dataclass
class JudgingArguments:
    """Which systems to judge by which labelled file."""

    data: str = field(metadata={"help": "Labelled file: .tsv (no header: text, tab, label), .csv, .jsonl or .parquet."})
    output: str = field(
        metadata={"help": "Folder for report.json, report.md and the pictures; new, or an earlier report."}
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Fine-tuned model (a folder, a name on the Hub) or a folder of scripts/baseline.py."},
    )
    compare: list[str] | None = field(
        default=None, metadata={"help": "Several of them, side by side on the same texts, in place of --model."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of --model on the Hub; its main branch if not given."}
    )
    text_column: str = field(default="text", metadata={"help": "Column of texts in .csv, .jsonl and .parquet files."})
    label_column: str = field(default="label", metadata={"help": "Column of gold labels in those files."})
    label_map: str | None = field(
        default=None,
        metadata={"help": "Names for the labels of all systems, where theirs are not the file's: LABEL_0=positive,..."},
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Texts the systems were trained on, to tell apart which they have seen."}
    )
    robustness: bool = field(
        default=False,
        metadata={
            "help": "Judge the same texts as people write them, too: capitals, punctuation and clitics attached, "
            "drawn-out letters, slang. Takes six times as long."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "Fit a temperature on the file, which should be valid, and store it in the model: probabilities "
            "change for every client, its labels do not."
        },
    )
    normalise: bool = field(
        default=False,
        metadata={
            "help": "Put a normaliser into the tokenizer of the model that writes drawn-out letters once, and judge "
            "the model with and without it, as --robustness does."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap and of the rewriting."})

    def __post_init__(self) -> None:
        _require_ranges(self)
        if (self.model is None) == (self.compare is None):
            raise ValueError("give --model for one system, or --compare for several.")
        if self.compare is not None and (len(self.compare) < 2 or self.model_revision):
            raise ValueError("--compare takes two systems or more, and no --model_revision.")
        if (self.calibrate or self.normalise) and self.model is None:
            raise ValueError("--calibrate and --normalise change one model: give it as --model.")
        if self.calibrate and self.normalise:
            raise ValueError("give --normalise first, and --calibrate in a run of its own: it shifts probabilities.")


@dataclass
class BaselineArguments:
    """Where a baseline goes."""

    output: str = field(metadata={"help": "Folder for the baseline and its report; new or empty."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})

    def __post_init__(self) -> None:
        _require_ranges(self)


def _all(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(kind))


# The options of scripts/score.py.
JUDGING_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "what": (JudgingArguments, ("data", "output", "model", "compare", "model_revision")),
    "how it is read": (
        JudgingArguments,
        ("text_column", "label_column", "label_map", "train_file", "robustness", "calibrate", "normalise", "seed"),
    ),
    "model and hardware": (EngineArguments, _all(EngineArguments)),
}

# The options of scripts/baseline.py.
BASELINE_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "data": (
        DataArguments,
        ("data_dir", "train_file", "valid_file", "text_column", "label_column", "labels"),
    ),
    "output": (BaselineArguments, _all(BaselineArguments)),
}

# The options of scripts/predict.py.
SCORING_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "what": (ScoringArguments, ("input", "output", "model", "model_revision", "text_column")),
    "how it is written": (
        ScoringArguments,
        ("input_format", "format", "labels_only", "explain", "prefix", "on_bad_row"),
    ),
    "model and hardware": (EngineArguments, _all(EngineArguments)),
}

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
    "Hub": (HubArguments, _all(HubArguments)),
}

# The options of scripts/pretrain.py.
PRETRAIN_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "encoder": (EncoderArguments, _all(EncoderArguments)),
    "texts": (CorpusArguments, _all(CorpusArguments)),
    "optimiser and schedule": (
        PretrainingArguments,
        ("learning_rate", "warmup_steps", "decay_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
        + ("max_grad_norm", "num_train_epochs", "max_steps"),
    ),
    "steps": (
        PretrainingArguments,
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        + ("mlm_probability", "compile_encoder", "seed"),
    ),
    "hardware": (PretrainingArguments, ("precision", "use_cpu", "num_threads", "dataloader_num_workers")),
    "output": (PretrainingArguments, ("output_dir", "resume", "allow_changes")),
}
