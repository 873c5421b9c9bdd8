"""The page of scripts/demo.py as a Hugging Face Space; SMSA_MODEL, a variable of the Space, names another model."""

import os

from smsa import SentimentClassifier
from smsa.demo.page import serve

serve(SentimentClassifier.from_pretrained(os.environ.get("SMSA_MODEL") or None), host="0.0.0.0")
