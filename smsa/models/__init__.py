"""Models: loading, the bundled ones, and a small one without pre-training."""
