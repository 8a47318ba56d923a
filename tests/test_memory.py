"""The most memory that a job takes, as a multiple of the model's: in a process of its own, on models of 100 MB."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc
import sys
from pathlib import Path
import torch
from torch import nn
import gracile

def linears():
    large = [nn.Linear(3584, 3584), nn.ReLU(), nn.Linear(3584, 3584), nn.ReLU()]
    return nn.Sequential(*large, nn.Linear(3584, 8)), (3584,)

def convolutions():
    layers = [nn.Conv2d(3, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU()]
    for _ in range(10):
        layers += [nn.Conv2d(512, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 8)), (3, 4, 4)

def compressed(method, **options):
    return lambda model, x: gracile.compress(
        model, x, evaluate=lambda small: -float(small(x).square().mean()), method=method, **options,
        search=gracile.Search(kind="exact", candidates=2, memo_bytes=0),
    )

def planned(model, x):
    return gracile.apply(model, gracile.prune.plan(model, x, sparsity=0.3))

JOBS = {
    "plan, apply": planned,
    "prune": compressed("prune", target=gracile.Target(macs=0.6)),
    "quantize": lambda model, x: gracile.quantize(model, x, calibration=[x]),
    "int8": lambda model, x: compressed("int8", calibration=[x])(model, x),
}

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

def peak(job, make):
    # What torch and its libraries allocate once, for themselves, is no part of the model.
    wide = torch.randn(512, 3584).double()
    wide @ wide.T, torch.addmm(wide[0, :512], wide[:2], wide.T)
    small = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    job(small, torch.randn(2, 64))
    del wide, small
    # Of the job before, too.
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS")
    model, shape = make()
    model.eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    job(model, torch.randn(2, *shape))
    return (status("VmHWM") - base) / size

for name, job in JOBS.items():
    print(f"{name}: {peak(job, globals()[sys.argv[1]]):.2f}")
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is reset by Linux alone")
@pytest.mark.parametrize("model", ["linears", "convolutions"])
def test_the_peak_is_within_three_times_the_model(model):
    # Blocks of this size go back to the system when they are freed; where the C library keeps them, holes are counted.
    environment = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, model],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    peaks = {name: float(value) for name, value in (line.split(": ") for line in done.stdout.splitlines())}
    assert peaks.keys() == {"plan, apply", "prune", "quantize", "int8"}
    # The model itself is counted: less than 1 would mean that nothing was measured.
    assert all(1 < peak <= 3 for peak in peaks.values()), peaks
