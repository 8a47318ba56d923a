"""``nni.algorithms.compression.v2.pytorch.pruning`` of NNI 2.6 to 2.8."""

from gracile.compat.nni.v2.pruning import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.v2.pruning import __all__  # noqa: F401 - exported
