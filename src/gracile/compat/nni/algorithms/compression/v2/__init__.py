"""``nni.algorithms.compression.v2``."""
