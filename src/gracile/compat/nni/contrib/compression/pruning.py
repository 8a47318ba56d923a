"""``nni.contrib.compression.pruning``, as in NNI 3."""

from gracile.compat.nni.v3.pruning import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.v3.pruning import __all__  # noqa: F401 - exported
