from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def without_onednn() -> Iterator[None]:
    """On x86 without AVX-512 torch 2.13 aborts in the backward pass of some small convolutions ("corrupted
    double-linked list"), whatever runs them; not where oneDNN is off.
    """
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and torch.backends.cpu.get_cpu_capability() != "AVX2"
    yield
    torch.backends.mkldnn.enabled = before
