"""Two processes on gloo, on this machine: both end with the same weights."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.optional import optional

from gracile.train import fit

optional("accelerate")
from support.processes import loss, start  # noqa: E402


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What either process ended with."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "processes.py"), str(folder)]
    started = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, env=os.environ | places | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        told = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


# The loader has eight batches of up to three, the list seven: each process sees four, or three.
@pytest.mark.parametrize(("kind", "steps"), [("loader", 8), ("list", 6), ("masked", 6), ("learned", 6), ("plain", 6)])
def test_both_processes_end_with_equal_weights(ranks, kind, steps):
    one, two = (rank[kind] for rank in ranks)
    assert one["steps"] == two["steps"] == steps
    assert one["losses"] == two["losses"]
    assert one["weights"].keys() == two["weights"].keys()
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, two["weights"][name]), name
    assert ("map.0" in one["weights"]) == (kind in {"loader", "list"})


def test_two_processes_train_as_one_does_on_both_batches(ranks):
    model, _, data, wanted = start()
    model.drop.p = 0.0
    batches = [(data[at : at + 6], wanted[at : at + 6]) for at in range(0, 18, 6)]
    fit(model, batches, loss=loss, optimizer=functools.partial(torch.optim.SGD, lr=0.1), epochs=2)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ranks[0]["plain"]["weights"][name], tensor)
