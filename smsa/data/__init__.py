"""Files -> rows -> tokens: labels, one reader of every format, datasets, a normaliser."""
