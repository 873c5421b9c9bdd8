"""Options that say where labelled texts come from."""

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Where labelled texts come from and where they are truncated."""

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
            "help": "Your own training file in place of SmSA: .csv, .tsv (without header: text, tab, label), .jsonl or "
            ".parquet, all but the last also .gz or .zst. Needs --valid_file too."
        },
    )
    valid_file: str | None = field(default=None, metadata={"help": "Your own validation file."})
    test_file: str | None = field(default=None, metadata={"help": "Your own labelled test file."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of texts; if not given, the only sensible one is taken."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of labels."})
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Label names, comma-separated, in the order of their ids, for example negatif,netral,positif. "
            "If not given: the names that a fine-tuned model carries, else positive,neutral,negative."
        },
    )
    max_length: int = field(
        default=512, metadata={"help": "Tokens per text, special tokens included; longer texts are truncated."}
    )
