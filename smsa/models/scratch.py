"""An encoder from the training texts alone: a small BERT, its word pieces, and a first vector for each of them."""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from scipy.sparse import coo_matrix
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedModel,
)

from smsa.data.labels import LABELS, label_maps

logger = logging.getLogger(__name__)

# Chosen on SmSA valid: see "From scratch" in docs/training.md.
SCRATCH_VOCAB_SIZE = 8_000
SCRATCH_SHAPE = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}
CONTEXT = 5  # word pieces to each side that count as near
CONTEXT_SMOOTHING = 0.75  # Levy et al. 2015, section 3.2


def build_scratch(
    train_texts: Iterable[str], labels: tuple[str, ...] = LABELS
) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """Build a small BERT and its lower-cased WordPiece vocabulary from the training texts; seed first.

    Its layers start at random, its word vectors as those of `embed_pieces`: texts as few as these let rare words hardly
    move from where they start.

    Args:
        train_texts: what the vocabulary and its vectors are learned from; equal texts give equal ones.
        labels: label names in the order of their ids.
    """
    texts = list(train_texts)
    tokenizer = train_tokenizer(texts)
    config = BertConfig(vocab_size=len(tokenizer), **SCRATCH_SHAPE, **label_maps(labels))
    model = BertForSequenceClassification(config)
    sequences = tokenizer(texts, add_special_tokens=False)["input_ids"]
    set_word_vectors(model, embed_pieces(sequences, config.vocab_size, config.hidden_size))
    logger.info("Encoder: scratch, %s, %s word pieces", SCRATCH_SHAPE, f"{len(tokenizer):,}")
    return model, tokenizer


def train_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """Get the tokenizer of `scratch`, its vocabulary learned from these texts."""
    vocabulary = train_vocabulary(texts, SCRATCH_VOCAB_SIZE)
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=512)


def embed_pieces(sequences: list[list[int]], n_pieces: int, n_dimensions: int) -> np.ndarray:
    """Get a vector for each word piece, such that pieces with the same neighbours have similar ones.

    Positive pointwise mutual information of pieces that stand near each other, weighted by 1 / distance, factored by a
    singular value decomposition whose values are taken to the power 0.5.

    Args:
        sequences: piece ids of each text.
        n_pieces, n_dimensions: size of the vocabulary and of the vectors.

    Returns:
        Of shape (n_pieces, n_dimensions) and length 1 each; zeros for a piece that has no neighbour. Equal sequences
        give equal vectors, whatever the number of threads.

    Source: Levy, Goldberg and Dagan 2015, Improving Distributional Similarity with Lessons Learned from Word
    Embeddings, https://aclanthology.org/Q15-1016
    """
    gap = [-1] * CONTEXT  # between texts
    pieces = np.concatenate([np.array([*sequence, *gap]) for sequence in sequences])
    pairs = []
    for distance in range(1, CONTEXT + 1):
        left, right = pieces[:-distance], pieces[distance:]
        inside = (left >= 0) & (right >= 0)
        pairs.append((left[inside], right[inside], np.full(inside.sum(), 1 / distance)))
    left, right, weights = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    near = coo_matrix((weights, (left, right)), shape=(n_pieces, n_pieces)).tocsr()
    near = (near + near.T).tocoo()
    if not near.nnz:
        return np.zeros((n_pieces, n_dimensions))
    total = near.data.sum()
    by_piece = np.bincount(near.row, near.data, n_pieces)
    by_context = by_piece**CONTEXT_SMOOTHING
    by_context *= total / by_context.sum()
    information = np.log(near.data * total / (by_piece[near.row] * by_context[near.col]))
    positive = information > 0
    matrix = coo_matrix(
        (information[positive], (near.row[positive], near.col[positive])), shape=(n_pieces, n_pieces)
    ).tocsr()
    with threadpool_limits(1):  # more of them would move the last bits
        left_vectors, values, _ = randomized_svd(matrix, min(n_dimensions, n_pieces), random_state=0)
    vectors = np.zeros((n_pieces, n_dimensions))
    vectors[:, : len(values)] = left_vectors * values**0.5
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9)


def set_word_vectors(model: PreTrainedModel, vectors: np.ndarray, scale: float = 1.0) -> None:
    """Give pieces the vectors of `embed_pieces`, `scale` times as long as random ones; those of zeros stay random."""
    weights, vectors = model.get_input_embeddings().weight.data, torch.from_numpy(vectors)
    found = vectors.abs().sum(-1) > 0
    length = scale * model.config.initializer_range * weights.shape[1] ** 0.5
    weights[found] = (length * vectors[found]).float()


def train_vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Learn lower-cased WordPieces; get the id of each, BERT's special tokens first.

    At most `size` pieces come back, fewer for few texts, and the same ones for the same texts. Left alone, tokenizers
    0.23 numbers the pieces of single characters in the order of a randomly seeded hash map, and breaks ties between
    merges by number, so that each process would learn other pieces. Naming those pieces beforehand fixes the order.
    """
    texts = list(texts)
    trainer = BertWordPieceTokenizer(lowercase=True)
    counts = Counter(character for text in texts for character in trainer.normalize(text) if not character.isspace())
    alphabet = sorted(sorted(counts, key=lambda character: (-counts[character], character))[: size // 8])
    special_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer.train_from_iterator(
        texts,
        vocab_size=size,
        min_frequency=2,
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        special_tokens=special_tokens + [f"##{character}" for character in alphabet],
        show_progress=False,
    )
    return trainer.get_vocab()
