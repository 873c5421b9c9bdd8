"""smsa: fine-tune an Indonesian encoder into a sentiment classifier, by the recipe of IndoNLU.

Data flows one way: files -> rows -> tokens -> logits -> tables.
"""

from smsa.arguments import DataArguments, ModelArguments, SentimentTrainingArguments
from smsa.data import BadRowsError, encode_splits, find_files, find_smsa, load_splits, read_rows
from smsa.labels import LABELS
from smsa.metrics import SentimentMetric, compute_metrics
from smsa.model import choose_labels, freeze_layers, load_model
from smsa.report import write_run
from smsa.trainer import SentimentTrainer

__all__ = [
    "LABELS",
    "BadRowsError",
    "DataArguments",
    "ModelArguments",
    "SentimentMetric",
    "SentimentTrainer",
    "SentimentTrainingArguments",
    "choose_labels",
    "compute_metrics",
    "encode_splits",
    "find_files",
    "find_smsa",
    "freeze_layers",
    "load_model",
    "load_splits",
    "read_rows",
    "write_run",
]
