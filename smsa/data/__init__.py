"""Files -> rows -> tokens: labels, one reader for all formats, datasets, a normaliser."""
