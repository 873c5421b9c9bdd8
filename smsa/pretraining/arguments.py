"""Options of pre-training, with their defaults and their help."""

from dataclasses import dataclass
from typing import Literal

from transformers import SchedulerType
from transformers.hf_argparser import HfArg

from smsa.cli import require_ranges
from smsa.errors import UserError
from smsa.training.arguments import RunArguments


@dataclass
class EncoderArguments:
    """Which encoder to pre-train further, or a new one."""

    model_name_or_path: str = HfArg(
        default="indobenchmark/indobert-base-p1",
        help="Encoder: a name on the Hub, a folder, 'mini', or 'new' for a random ModernBERT of mini's shape with a "
        "vocabulary learned from the texts.",
    )
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit on the Hub, if not main.")
    add_tokens: str | None = HfArg(default=None, help="File of words, one per line, that become tokens.")


@dataclass
class CorpusArguments:
    """Which texts to pre-train on."""

    sources: list[str] = HfArg(
        help="Files of texts, in any format that scripts/predict.py reads. tweets.txt=2: each epoch reads these texts "
        "twice; laws.csv=0.25: a quarter of them, always the same. 'smsa' is SmSA's train."
    )
    corpus_dir: str | None = HfArg(default=None, help="Folder of the sources; if not given, $SMSA_CORPUS_DIR, or .")
    data_dir: str | None = HfArg(default=None, help="Folder with SmSA, as in scripts/finetune.py.")
    decontaminate: list[str] | None = HfArg(
        default=None,
        help="Files of evaluation texts: a text is excluded if it is equal to one of them, or shares eight words in a "
        "row with it. 'smsa' is SmSA's valid and test.",
    )
    text_column: str | None = HfArg(default=None, help="Column of texts in all files but smsa; found if not given.")
    sheet: str | None = HfArg(default=None, help="Sheet of a workbook that has several.")
    held_out: float = HfArg(default=0.01, help="Share of the texts that each epoch is evaluated on.")
    max_length: int = HfArg(default=128, help="Tokens per row; [SEP] separates its texts.")

    def __post_init__(self) -> None:
        require_ranges(self)


@dataclass
class PretrainingArguments(RunArguments):
    """Arguments of masked-language-model pre-training; those of Trainer are here only where their default differs."""

    output_dir: str = HfArg(default="runs/pretrained", help="Folder of the run; new, unless --resume is given.")
    learning_rate: float = HfArg(default=1e-4, help="Learning rate between warm-up and decay.")
    lr_scheduler_type: Literal[*(kind.value for kind in SchedulerType)] = HfArg(
        default=SchedulerType.WARMUP_STABLE_DECAY.value,
        help="A run can be lengthened only with warmup_stable_decay, constant until the last decay_steps.",
    )
    warmup_steps: int = HfArg(default=500, help="First steps, over which the learning rate rises.")
    decay_steps: int = HfArg(default=2000, help="Last steps, over which warmup_stable_decay falls to 0.")
    weight_decay: float = HfArg(default=0.01, help="AdamW's weight decay.")
    adam_beta2: float = HfArg(default=0.98, help="AdamW's beta 2.")
    adam_epsilon: float = HfArg(default=1e-6, help="AdamW's epsilon.")
    per_device_train_batch_size: int = HfArg(default=32, help="Rows per batch in each process.")
    per_device_eval_batch_size: int = HfArg(default=32, help="Rows per batch in evaluation.")
    mlm_probability: float = HfArg(default=0.2, help="Share of the tokens that are masked.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.metric_for_best_model or "loss").removeprefix("eval_") not in ("loss", "masked_accuracy"):
            raise UserError(f"metric_for_best_model {self.metric_for_best_model!r} is not loss or masked_accuracy.")
