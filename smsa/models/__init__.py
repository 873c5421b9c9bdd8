"""Models: loading, those that are bundled, and a small one from nothing."""
