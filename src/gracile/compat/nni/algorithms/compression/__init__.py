"""``nni.algorithms.compression``."""
