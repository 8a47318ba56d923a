"""``nni.contrib``."""
