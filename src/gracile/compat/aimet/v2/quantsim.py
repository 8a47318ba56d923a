"""``aimet_torch.v2.quantsim``."""

from gracile.compat.aimet.v1.quantsim import *  # noqa: F403 - a further path to the same names
from gracile.compat.aimet.v1.quantsim import __all__  # noqa: F401 - exported
