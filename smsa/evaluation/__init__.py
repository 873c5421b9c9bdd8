"""How good a model is: gold labels and probabilities in; metrics with intervals, tables and pictures out."""
