"""What is learned from the training texts alone: word pieces and a vector for each, equal for equal texts."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from smsa.models.loading import load_model
from smsa.models.scratch import build_scratch, embed_pieces, train_vocabulary


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process():
    """tokenizers alone gives other pieces each time: its hash maps are seeded at random in each process."""
    code = (
        "from smsa.data.datasets import find_smsa, read_rows; from smsa.models.scratch import train_vocabulary; "
        "print(sorted(train_vocabulary(read_rows(find_smsa('data/sample')['train'])[0], 2000).items()))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) > 10_000, runs[0].stderr


def test_the_vocabulary_is_lower_case_within_its_size_and_spells_every_frequent_character():
    texts = ["Enak SEKALI", "enak sekali 👍", "tidak enak", "sekali lagi"] * 3
    vocabulary = train_vocabulary(texts, 80)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= 80
    assert {"enak", "sekali"} <= set(vocabulary)
    assert not any(piece.lower() != piece for piece in vocabulary if not piece.startswith("["))
    assert [piece for piece, i in sorted(vocabulary.items(), key=lambda item: item[1])][:3] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
    ]


def test_scratch_reloads_with_the_same_logits_and_tokens(tmp_path):
    texts = ["makanan nya enak", "pelayanan nya lambat", "rapat hari ini"] * 5
    set_seed(3)
    model, tokenizer = load_model("scratch", train_texts=texts)
    set_seed(3)
    again, _ = load_model("scratch", train_texts=texts)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = tokenizer("Makanan enak, lambat 👍", return_tensors="pt")
    tokens_again = AutoTokenizer.from_pretrained(tmp_path)("Makanan enak, lambat 👍", return_tensors="pt")
    assert torch.equal(tokens_again["input_ids"], batch["input_ids"])
    with torch.no_grad():
        # the same weights; where these lie in memory can move the last bit of a product
        torch.testing.assert_close(reloaded(**batch).logits, model.eval()(**batch).logits, rtol=0, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reloaded.parameters(), strict=True))


def test_vectors_factor_what_pieces_say_about_their_neighbours():
    """Against the definition, written out pair by pair."""
    sequences = [[0, 1, 2, 0, 3], [4, 1, 2], [3], [2, 2, 4, 0, 1, 3, 0, 5, 5]]
    near = np.zeros((7, 7))
    for sequence in sequences:
        for i, piece in enumerate(sequence):
            for j, other in enumerate(sequence):
                if 0 < abs(i - j) <= 5:
                    near[piece, other] += 1 / abs(i - j)
    contexts = near.sum(0) ** 0.75 / (near.sum(0) ** 0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(near / near.sum() / (near.sum(1)[:, None] / near.sum() * contexts))
    left, values, _ = np.linalg.svd(np.where(information > 0, information, 0)[:6, :6])
    expected = left * values**0.5
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = embed_pieces(sequences, n_pieces=7, n_dimensions=9)
    assert found.shape == (7, 9)
    assert found[:6] @ found[:6].T == pytest.approx(expected @ expected.T, abs=1e-9)  # vectors may be turned
    assert not found[6].any() and not found[:, 6:].any()


def test_texts_of_one_piece_have_no_neighbours():
    assert not embed_pieces([[1], [2], []], n_pieces=3, n_dimensions=2).any()


def test_words_in_the_same_place_start_alike_and_the_rest_of_the_encoder_at_random():
    texts = [f"{food} nya {taste} sekali" for food in ("nasi", "soto", "sate") for taste in ("enak", "lezat")] * 4
    texts += ["rapat hari senin di kantor", "rapat hari selasa di kantor"] * 4
    set_seed(0)
    model, tokenizer = build_scratch(texts)
    vectors = model.get_input_embeddings().weight.detach()
    enak, lezat, kantor = (vectors[tokenizer.convert_tokens_to_ids(word)] for word in ("enak", "lezat", "kantor"))
    assert torch.cosine_similarity(enak, lezat, 0) > 0.9 > 0.5 > torch.cosine_similarity(enak, kantor, 0)
    assert enak.norm() == pytest.approx(0.02 * 256**0.5, rel=1e-5)
    assert 0 < vectors[tokenizer.cls_token_id].norm() < 1  # in no text
    assert model.bert.embeddings.position_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.slow
def test_the_vectors_do_not_depend_on_the_number_of_threads():
    code = (
        "import hashlib, numpy as np; from smsa.models.scratch import embed_pieces; "
        "draws = np.random.default_rng(0).zipf(1.3, (800, 20)) % 1500; "
        "print(hashlib.sha256(embed_pieces(draws.tolist(), 1500, 128).tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n},
        )  # fmt: skip
        for n in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
