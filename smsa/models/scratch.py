"""A small BERT without any pre-training: its vocabulary is learned from the training texts, its weights are random."""

from collections import Counter
from collections.abc import Iterable

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from smsa.data.labels import label_maps

# Chosen on SmSA valid; "From scratch" in docs/training.md says what comes of it.
SCRATCH_VOCAB_SIZE = 8_000
SCRATCH_SHAPE = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
}


def build_scratch(texts: Iterable[str], labels: tuple[str, ...]) -> tuple[BertForSequenceClassification, BertTokenizer]:
    """Build a small random BERT with a head for `labels`, and the tokenizer of the training texts; seed first."""
    vocabulary = train_vocabulary(texts, SCRATCH_VOCAB_SIZE)
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=512)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **SCRATCH_SHAPE, **label_maps(labels)))
    return model, tokenizer


def train_vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Learn a lower-cased WordPiece vocabulary; return the id of each token, BERT's special tokens first.

    It has at most `size` tokens, fewer for few texts, and the same ones for the same texts. Without help, tokenizers
    0.23 numbers the tokens of single characters in the order of a randomly seeded hash map, and breaks ties between
    merges by number, so that each process would learn another vocabulary. Naming these tokens first fixes the order.
    """
    texts = list(texts)
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    counts = Counter(character for text in texts for character in tokenizer.normalize(text) if not character.isspace())
    alphabet = sorted(sorted(counts, key=lambda character: (-counts[character], character))[: size // 8])
    special_tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts,
        vocab_size=size,
        min_frequency=2,
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        special_tokens=special_tokens + [f"##{character}" for character in alphabet],
        show_progress=False,
    )
    return tokenizer.get_vocab()
