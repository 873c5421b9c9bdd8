"""Masked-language-model pre-training: corpus, vocabulary, Trainer."""
