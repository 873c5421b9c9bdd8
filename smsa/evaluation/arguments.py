"""Options of evaluation and of baselines, with their defaults and their help."""

from dataclasses import dataclass, field

from smsa.cli import require_ranges
from smsa.errors import UserError


@dataclass
class EvaluationArguments:
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
        require_ranges(self)
        if (self.model is None) == (self.compare is None):
            raise UserError("give --model for one system, or --compare for several.")
        if self.compare is not None and (len(self.compare) < 2 or self.model_revision):
            raise UserError("--compare takes two systems or more, and no --model_revision.")
        if (self.calibrate or self.normalise) and self.model is None:
            raise UserError("--calibrate and --normalise change one model: give it as --model.")
        if self.calibrate and self.normalise:
            raise UserError("give --normalise first, and --calibrate in a run of its own: it shifts probabilities.")


@dataclass
class BaselineArguments:
    """Where a baseline goes."""

    output: str = field(metadata={"help": "Folder for the baseline and its report; new or empty."})
    seed: int = field(default=0, metadata={"help": "Seed of the bootstrap."})

    def __post_init__(self) -> None:
        require_ranges(self)
