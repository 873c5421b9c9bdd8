"""The scores of fine-tuning as a metric of the library `evaluate`, whose import takes seconds."""

import tempfile

import evaluate
from datasets import Features, Value

from smsa.data.labels import LABELS
from smsa.training.metrics import score_label_ids


class SentimentMetric(evaluate.Metric):
    """Accuracy and macro scores over a fixed set of labels, and the scores of each label.

    The labels are fixed because scikit-learn would otherwise average only over labels that occur.

    Args:
        labels: label names in the order of their ids.

    Reference: Wilie et al. 2020, IndoNLU, https://arxiv.org/abs/2009.05387
    """

    def __init__(self, labels: tuple[str, ...] = LABELS, **kwargs):
        self.labels = tuple(labels)
        # evaluate creates a cache folder even if nothing is stored; the default home folder may be read-only.
        super().__init__(keep_in_memory=True, cache_dir=tempfile.gettempdir(), **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="https://arxiv.org/abs/2009.05387",
            features=Features({"predictions": Value("int64"), "references": Value("int64")}),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        return score_label_ids(predictions, references, self.labels)
