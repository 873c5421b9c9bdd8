"""Models and the devices they run on: loading, bundled weights, precision."""
