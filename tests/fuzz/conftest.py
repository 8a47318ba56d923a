"""How long to look: 60 networks in the tests, as many as GRACILE_FUZZ says in ``make fuzz``."""

import os

from hypothesis import HealthCheck, settings

_COUNT = os.environ.get("GRACILE_FUZZ")

# The tests always see the same examples; a night sees new ones.
settings.register_profile(
    "gracile",
    max_examples=int(_COUNT or 60),
    derandomize=_COUNT is None,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("gracile")
