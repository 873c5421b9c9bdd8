"""Options of pre-training, with their defaults and their help."""

from dataclasses import dataclass, field

from transformers import PretrainedConfig, SchedulerType

from smsa.cli import require_ranges
from smsa.errors import UserError
from smsa.training.arguments import RunArguments

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
            raise UserError("'scratch' learns from labelled texts alone; a new encoder is --model_name_or_path new.")
        require_ranges(self)
        if self.model_name_or_path != "new":
            return
        if self.add_tokens:
            raise UserError("--add_tokens goes with an encoder that is there: a new one learns its words by itself.")
        if self.model_revision:
            raise UserError("--model_revision goes with a name on the Hub: a new encoder has none.")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise UserError(
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
                raise UserError(
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
    decontaminate: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of evaluation texts, one per line: every text that shares eight words in a row with one of "
            "them, or is equal to it, is excluded. 'smsa' stands for SmSA's valid and test."
        },
    )
    held_out: float = field(
        default=0.01, metadata={"help": "Share of the texts by which the model is judged after each epoch."}
    )
    max_length: int = field(
        default=128, metadata={"help": "Word pieces a row; texts follow one another in it, divided by [SEP]."}
    )

    def __post_init__(self) -> None:
        require_ranges(self)
        if self.max_length < 8:
            raise UserError(f"max_length is {self.max_length}; a row needs at least 8 word pieces.")


@dataclass
class PretrainingArguments(RunArguments):
    """Arguments of masked-language-model pre-training.

    Raises:
        UserError: as `RunArguments`, and for values that could not take effect.
    """

    output_dir: str = field(
        default="runs/pretrained",
        metadata={"help": "Folder for all that the run leaves; new or empty, unless --resume is given."},
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate between warm-up and decay."})
    lr_scheduler_type: str = field(
        default=SchedulerType.WARMUP_STABLE_DECAY.value,
        metadata={
            "help": "warmup_stable_decay stays constant before the last decay_steps, so that a run can be lengthened; "
            "the others are Trainer's.",
            "choices": [kind.value for kind in SchedulerType],
        },
    )
    warmup_steps: int = field(
        default=500, metadata={"help": "Steps in which the learning rate rises to its full value."}
    )
    decay_steps: int = field(
        default=2000,
        metadata={"help": "Last steps of warmup_stable_decay, in which the learning rate falls to 0."},
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
    mlm_probability: float = field(default=0.2, metadata={"help": "Share of the tokens that are masked."})
    compile_encoder: bool = field(
        default=False,
        metadata={
            "help": "Compile the encoder by torch.compile: a small one is 1.3 times as fast on a CPU with AMX. Takes "
            "half a minute at the start, and a C++ compiler."
        },
    )
