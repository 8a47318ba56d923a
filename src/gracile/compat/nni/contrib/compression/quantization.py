"""``nni.contrib.compression.quantization``, as in NNI 3."""

from gracile.compat.nni.compression.quantization import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.compression.quantization import __all__  # noqa: F401 - exported
