"""Two processes on gloo, on this machine: both end with the same weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")


def _two(kind, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(Path(__file__).with_name("processes.py")), kind, str(folder)]
    started = []
    for rank in ("0", "1"):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command, env=os.environ | places | ranks, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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
@pytest.mark.parametrize(("kind", "steps"), [("loader", 8), ("list", 6), ("masked", 6)])
def test_both_processes_end_with_equal_weights(kind, steps, tmp_path):
    one, two = _two(kind, tmp_path)
    assert one["steps"] == two["steps"] == steps
    assert one["losses"] == two["losses"]
    assert one["weights"].keys() == two["weights"].keys()
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, two["weights"][name]), name
    assert ("map.0" in one["weights"]) == (kind != "masked")
