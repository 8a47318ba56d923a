"""``nni.algorithms``."""
