"""accelerate keeps its state for the whole process: each test here starts without that of others."""

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    if importlib.util.find_spec("accelerate") is not None:
        from accelerate.state import AcceleratorState, GradientState  # noqa: PLC0415 - an optional package

        AcceleratorState._reset_state(True)
        GradientState._reset_state()
