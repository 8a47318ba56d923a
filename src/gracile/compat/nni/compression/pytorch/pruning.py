"""``nni.compression.pytorch.pruning`` of NNI 2."""

from gracile.compat.nni.v2.pruning import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.v2.pruning import __all__  # noqa: F401 - exported
