"""Options of evaluation, calibration and baselines, with their defaults and their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers.hf_argparser import HfArg

from smsa.cli import require_ranges
from smsa.data.datasets import ReadingArguments, find_smsa
from smsa.errors import UserError
from smsa.evaluation.baselines import BASELINES


@dataclass(kw_only=True)
class LabelledFileArguments(ReadingArguments):
    """Which labelled file, and how it is to be read."""

    data: str | None = HfArg(
        default=None,
        help="Labelled file: a table in any format that scripts/predict.py reads; if not given, SmSA's valid.",
    )

    def __post_init__(self) -> None:
        self.data = self.data or str(find_smsa()["valid"])


@dataclass
class EvaluationArguments:
    """Which systems to evaluate, and how."""

    output: str = HfArg(help="Folder for the report and its pictures; replaces an earlier report.")
    model: str | None = HfArg(default=None, help="Model folder, name on the Hub, or folder of a baseline.")
    compare: list[str] | None = HfArg(default=None, help="Two or more systems, instead of --model.")
    model_revision: str | None = HfArg(default=None, help="Branch, tag or commit of --model on the Hub.")
    train_file: str | None = HfArg(default=None, help="Their training file, to score seen texts apart.")
    robustness: bool = HfArg(default=False, help="Also evaluate the texts as people write them; six times as slow.")
    seed: int = HfArg(default=0, help="Seed of the bootstrap and of the perturbations.")

    def __post_init__(self) -> None:
        require_ranges(self)
        if (self.model is None) == (self.compare is None):
            raise UserError("give --model for one system, or --compare for several.")
        if self.compare is not None and (len(self.compare) < 2 or self.model_revision):
            raise UserError("--compare takes two systems or more, and no --model_revision.")
        if Path(self.output).is_file():
            raise UserError(f"--output {self.output} is a file: name a folder for the report.")


@dataclass
class CalibrationArguments:
    """Which model to calibrate, and where the calibrated one goes."""

    model: str = HfArg(help="Folder of a fine-tuned model, or a bundled one; it is not changed.")
    output: str = HfArg(help="Folder for the calibrated model; new or empty.")
    normalise_elongated: bool = HfArg(default=False, help="Also let the tokenizer read enaaak as enak.")


@dataclass
class BaselineArguments:
    """Which baseline, and where it goes."""

    kind: Literal[*BASELINES] = HfArg(
        help="keyword: words of joy and anger; tfidf: logistic regression; majority: the most frequent label."
    )
    output: str = HfArg(help="Folder for the baseline and its report; new or empty.")
