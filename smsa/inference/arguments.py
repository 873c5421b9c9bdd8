"""Options of prediction, with their defaults and their help."""

from dataclasses import dataclass, field

from smsa.models.devices import PRECISIONS


@dataclass
class PredictionArguments:
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
            "input; - is stdout. It appears when it is whole."
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
    labels_only: bool = field(default=False, metadata={"help": "Add the label only, without probabilities."})
    explain: bool = field(
        default=False,
        metadata={
            "help": "Add a column, words, that says what each word of a text weighs for its label: see "
            "docs/attribution.md. Slower by about ten times the words of a text."
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

    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens per text, special tokens included; longer texts are truncated. If not given: the length "
            "that the model was trained with, which its tokenizer states."
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
            "avx512_bf16), and no (fp32) elsewhere. int8 needs OpenVINO and a CPU with VNNI, and shifts probabilities "
            "by about 0.01.",
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
        default=None, metadata={"help": "CPU cores of each process; if not given, an equal share."}
    )
    batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of a batch, pads included; if not given, 1,024 on a CPU and 65,536 on a GPU. Fewer need "
            "less memory; they move the last digits of probabilities."
        },
    )
