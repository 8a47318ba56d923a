"""Latency targets on real shapes: how near the measured time comes to half of the original's.

    python bench/latency_target.py              # writes bench/latency_target.md

Needs gracile[export] and torchvision.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from results import machine, markdown
from torch import nn

import gracile

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
TARGET, SEED = 0.5, 0
METHODS = ("prune", "channel_pruning", "spatial_svd")


def networks() -> dict[str, Callable[..., nn.Module]]:
    import support.torchvision  # noqa: F401, PLC0415 - makes torchvision import beside a CPU build of torch
    from torchvision.models import mobilenet_v2, resnet18  # noqa: PLC0415

    return {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}


def row(name: str, model: nn.Module, method: str, threads: int) -> tuple[object, ...]:
    """What one job did."""
    start = time.monotonic()
    target = gracile.Target(latency=TARGET, runtime="onnxruntime", threads=threads)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(SEED))
    try:
        result = gracile.compress(model, image, evaluate=lambda _: 0.0, target=target, method=method, search="tar")
    except gracile.GracileError as error:
        return name, method, threads, "", "", str(error).partition(" Ways out")[0], ""
    found = result.report.latency
    assert found is not None
    last = found.timings["compressed"]
    tries = ", ".join(f"{attempt.expected:.3f} -> {attempt.measured:.3f}" for attempt in found.attempts)
    return (
        name, method, threads, f"{result.report.ratio('macs'):.3f}", tries,
        f"{last.ratio:.3f} ({last.ratio_low:.3f}-{last.ratio_high:.3f})", f"{time.monotonic() - start:.0f}",
    )  # fmt: skip


def main() -> None:
    rows = []
    for name, make in networks().items():
        torch.manual_seed(SEED)
        model = make(weights=None).eval()
        for method in METHODS:
            for threads in (1, 2):
                rows.append(row(name, model, method, threads))
                print(rows[-1], flush=True)
    header = ("network", "method", "threads", "MACs", "expected -> measured", "time", "seconds in all")
    text = (HERE / "latency_target.head.md").read_text()
    (HERE / "latency_target.md").write_text(
        f"{text}\n{markdown(header, rows)}\n\n"
        f"Machine: {machine()}, onnxruntime {onnxruntime.__version__}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
