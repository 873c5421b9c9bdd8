"""Options that say where labelled texts come from."""

from dataclasses import dataclass, field


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
