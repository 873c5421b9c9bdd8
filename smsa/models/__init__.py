"""Models, and the machine they are trained on: loading, bundled weights, memory, what a run says of hardware."""
