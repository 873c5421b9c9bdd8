"""Options that say where labelled texts come from."""

from dataclasses import dataclass, field

from smsa.data.formats import BadRow


@dataclass(kw_only=True)
class ReadingArguments:
    """How labelled files are read."""

    text_column: str | None = field(
        default=None, metadata={"help": "Column of texts; if not given, it is found by its name or by what it holds."}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column of labels; one of another usual name, such as sentimen, is found."}
    )
    label_map: str | None = field(
        default=None,
        metadata={
            "help": "What labels of the file mean: -1=negative,0=neutral,1=positive,9=drop; drop leaves rows out. "
            "positif, Positive and the like are known."
        },
    )
    sheet: str | None = field(
        default=None, metadata={"help": "Sheet of a workbook; if not given, the only one with texts is taken."}
    )
    on_bad_row: str = field(
        default="strict",
        metadata={
            "help": "strict: stop. skip: leave bad rows out, such as empty texts and rows without a label, and list "
            "them in rejects.jsonl.",
            "choices": ["strict", "skip"],
        },
    )

    def reading(self) -> dict[str, str | list[BadRow] | None]:
        """Return the options of `load_splits`."""
        names = ("text_column", "label_column", "label_map", "sheet")
        return {name: getattr(self, name) for name in names} | {"rejects": [] if self.on_bad_row == "skip" else None}


@dataclass(kw_only=True)
class DataArguments(ReadingArguments):
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
            "help": "Your own training file in place of SmSA: a table in any format that scripts/predict.py reads. "
            "Without --valid_file a tenth of it, stratified by label, is split off as valid."
        },
    )
    valid_file: str | None = field(default=None, metadata={"help": "Your own validation file."})
    test_file: str | None = field(default=None, metadata={"help": "Your own labelled test file."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set of the Hub in place of files, or a local folder of one."}
    )
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
