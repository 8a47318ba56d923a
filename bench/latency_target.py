"""Latency targets on real shapes: how near the measured time comes to half of the original's.

    python bench/latency_target.py              # resumes; writes bench/latency_target.md

Needs gracile[export] and torchvision.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from results import Rows, machine, markdown
from torch import nn

import gracile

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
TARGET, SEED = 0.5, 0
METHODS = ("prune", "channel_pruning", "spatial_svd")
KEYS = ("network", "method", "threads")


def networks() -> dict[str, Callable[..., nn.Module]]:
    import support.torchvision  # noqa: F401, PLC0415 - makes torchvision import beside a CPU build of torch
    from torchvision.models import mobilenet_v2, resnet18  # noqa: PLC0415

    return {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}


def row(name: str, model: nn.Module, method: str, threads: int) -> dict[str, object]:
    """What one job did."""
    job = {"network": name, "method": method, "threads": threads}
    start = time.monotonic()
    target = gracile.Target(latency=TARGET, runtime="onnxruntime", threads=threads)
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(SEED))
    try:
        result = gracile.compress(model, image, evaluate=lambda _: 0.0, target=target, method=method, search="tar")
    except gracile.GracileError as error:
        return {**job, "macs": "", "attempts": "", "time": str(error).partition(" Ways out")[0], "seconds": ""}
    found = result.report.latency
    assert found is not None
    last = found.timings["compressed"]
    tries = ", ".join(f"{attempt.expected:.3f} -> {attempt.measured:.3f}" for attempt in found.attempts)
    return {
        **job, "macs": f"{result.report.ratio('macs'):.3f}", "attempts": tries,
        "time": f"{last.ratio:.3f} ({last.ratio_low:.3f}-{last.ratio_high:.3f})",
        "seconds": f"{time.monotonic() - start:.0f}",
    }  # fmt: skip


def main() -> None:
    rows = Rows("latency_target", KEYS)
    for name, make in networks().items():
        torch.manual_seed(SEED)
        model = make(weights=None).eval()
        for method in METHODS:
            for threads in (1, 2):
                if not rows.has(network=name, method=method, threads=threads):
                    rows.add(**row(name, model, method, threads))
                    write(rows)


def write(rows: Rows) -> None:
    header = ("network", "method", "threads", "MACs", "bound by the table -> measured", "time", "seconds in all")
    text = (HERE / "latency_target.head.md").read_text()
    (HERE / "latency_target.md").write_text(
        f"{text}\n{markdown(header, [tuple(one.values()) for one in rows.rows])}\n\n"
        f"Machine: {machine()}, onnxruntime {onnxruntime.__version__}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
