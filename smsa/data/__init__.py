"""Files -> rows -> tokens: labels, readers of every format, datasets, normalisers."""
