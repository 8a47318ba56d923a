"""``nni.algorithms.compression.pytorch.quantization`` of NNI 2."""

from gracile.compat.nni.compression.pytorch.quantization import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.compression.pytorch.quantization import __all__  # noqa: F401 - exported
