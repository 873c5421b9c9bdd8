"""A page to try a model on."""
