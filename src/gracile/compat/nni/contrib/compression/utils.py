"""``nni.contrib.compression.utils``, as in NNI 3."""

from gracile.compat.nni.compression.utils import *  # noqa: F403 - a further path to the same names
from gracile.compat.nni.compression.utils import __all__  # noqa: F401 - exported
