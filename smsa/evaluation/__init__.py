"""How good a model is: gold labels and probabilities in, scores with intervals, tables and pictures out."""
