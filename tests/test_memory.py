"""The most memory that a job takes, beside the model's: in a process of its own, on models of 100 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is reset by Linux alone"
)

PEAK = """
import gc
import json
import sys
from pathlib import Path
import torch
from torch import nn
import gracile

def status(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024

def warm(job):
    # What torch and its libraries allocate once, for themselves, is no part of the model.
    wide = torch.randn(512, 3072).double()
    wide @ wide.T, torch.addmm(wide[0, :512], wide[:2], wide.T)
    layers = [nn.Conv2d(4, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    small = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    job(small, torch.ones(2, 4, 8, 8))

def peak(job, make):
    warm(job)
    # Of the job before, too.
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS")
    model, x = make()
    job(model.eval(), x)
    return status("VmHWM") - base
"""

# Jobs on models whose weights are all that counts.
WEIGHTS = """
def linears():
    large = [nn.Linear(3072, 3072), nn.ReLU(), nn.Linear(3072, 3072), nn.ReLU()]
    return nn.Sequential(*large, nn.Linear(3072, 8)), torch.randn(2, 3072)

def convolutions():
    layers = [nn.Conv2d(3, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU()]
    for _ in range(10):
        layers += [nn.Conv2d(512, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 8)), torch.randn(2, 3, 4, 4)

def compressed(method, kind="exact", **options):
    return lambda model, x: gracile.compress(
        model, x, evaluate=lambda small: -float(small(x).square().mean()), method=method, **options,
        search=gracile.Search(kind=kind, candidates=2, memo_bytes=0),
    )

def planned(model, x):
    return gracile.apply(model, gracile.prune.plan(model, x, sparsity=0.3))

JOBS = {
    "plan, apply": planned,
    "prune": compressed("prune", target=gracile.Target(macs=0.6)),
    "quantize": lambda model, x: gracile.quantize(model, x, calibration=[x]),
    "int8": lambda model, x: compressed("int8", calibration=[x])(model, x),
    "weight_svd": compressed("weight_svd", "tar", target=gracile.Target(macs=0.6)),
}
if sys.argv[1] == "convolutions":
    JOBS["spatial_svd"] = compressed("spatial_svd", "tar", target=gracile.Target(macs=0.6))

make = globals()[sys.argv[1]]
sizes = [tensor.numel() * tensor.element_size() for tensor in make()[0].parameters()]
peaks = {name: peak(job, make) / sum(sizes) for name, job in JOBS.items()}
print(json.dumps({"peaks": peaks, "largest": max(sizes) / sum(sizes)}))
"""

# A dictionary of a model whose outputs, 32 MiB of each layer in 8 batches, are all that counts.
OUTPUTS = """
def activations():
    layers = [nn.Conv2d(1, 8, 3, padding=1)]
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), torch.randn(256, 1, 64, 64)

def filled(limit):
    def job(model, x):
        result = gracile.compress(
            model, x[:1], evaluate=lambda small: -sum(float(small(part).square().mean()) for part in x.split(32)),
            target=gracile.Target(macs=0.7), method="spatial_svd", round_to=1,
            search=gracile.Search(candidates=4, memo_bytes=limit << 20),
        )
        hits.append(result.report.stages[0].dictionary.hit_rate)
    return job

hits = []
peaks = [peak(filled(limit), activations) / 2**20 for limit in (0, 16, 128)]
# Each job ran on a small model first.
print(json.dumps({"peaks": peaks, "hits": hits[1::2]}))
"""


def run(script, *arguments):
    # Blocks of this size go back to the system when they are freed; where the C library keeps them, holes are counted.
    environment = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK + script, *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", ["linears", "convolutions"])
def test_the_peak_is_within_three_times_the_model_and_ten_times_the_largest_layer_where_it_is_decomposed(model):
    found = run(WEIGHTS, model)
    peaks = found["peaks"]
    decomposed = {name: peaks.pop(name) for name in list(peaks) if name.endswith("svd")}
    assert peaks.keys() == {"plan, apply", "prune", "quantize", "int8"}
    assert decomposed.keys() == {"weight_svd", *(["spatial_svd"] if model == "convolutions" else [])}
    # The model itself is counted: less than 1 would mean that nothing was measured.
    assert all(1 < peak <= 3 for peak in peaks.values()), peaks
    assert all(1 < peak <= 3 + 10 * found["largest"] for peak in decomposed.values()), decomposed


def test_kept_outputs_take_no_more_than_their_bound():
    found = run(OUTPUTS)
    (without, little, much), (never, some, most) = found["peaks"], found["hits"]
    assert never == 0 < some < most
    # What does not fit any more is copied, and then found to be too large.
    assert 8 < little - without <= 16 + 2 * 4, found
    assert little - without < much - without <= 128, found
