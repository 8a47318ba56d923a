"""Measured time of pruned networks in onnxruntime and eager, with and without widths that kernels like.

    python bench/pruning_speed.py               # writes bench/pruning_speed.md

Needs onnx, onnxscript and onnxruntime, and torchvision for ResNet-18.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from networks import NETWORKS
from results import machine, markdown
from torch import Tensor, nn

import gracile

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
PAIRS, SEED = 31, 0
ROUNDINGS: tuple[object, ...] = (1, 16, "auto")
Run = Callable[[], object]


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> a network without training, and the batch that it is timed on."""
    import support.torchvision  # noqa: F401, PLC0415 - makes torchvision import beside a CPU build of torch
    from torchvision.models import resnet18  # noqa: PLC0415

    torch.manual_seed(SEED)
    small = {name: (make(), torch.randn(32, 1, 28, 28)) for name, make in NETWORKS.items()}
    return {**small, "resnet18": (resnet18(weights=None), torch.randn(1, 3, 224, 224))}


def in_onnxruntime(model: nn.Module, batch: Tensor) -> Run:
    """One pass of the exported model on one thread."""
    file = io.BytesIO()
    torch.onnx.export(model, (batch,), dynamo=True, verbose=False).save(file)  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: batch.numpy()}
    return lambda: session.run(None, feed)


def eagerly(model: nn.Module, batch: Tensor) -> Run:
    def run() -> object:
        with torch.inference_mode():
            return model(batch)

    return run


def compared(before: Run, after: Run) -> tuple[float, float, float]:
    """Time of ``after`` / time of ``before``: lower quartile, median, upper quartile over pairs taken by turns."""
    ratios = []
    for pair in range(PAIRS + 3):
        first, second = (before, after) if pair % 2 else (after, before)
        taken = (seconds(first), seconds(second))
        ratios.append(taken[1] / taken[0] if pair % 2 else taken[0] / taken[1])
    low, middle, high = statistics.quantiles(ratios[3:], n=4)
    return low, middle, high


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    rows: list[tuple[object, ...]] = []
    for name, (model, batch) in networks().items():
        model.eval()
        dense = gracile.profile(model, batch[:1]).macs
        for rounding in ROUNDINGS:
            plan = gracile.prune.plan(
                model, batch[:1], target=gracile.Target(macs=0.5), round_to=rounding,  # type: ignore[arg-type]
            )  # fmt: skip
            small = gracile.apply(model, plan).eval()
            cells = []
            for runtime in (in_onnxruntime, eagerly):
                low, middle, high = compared(runtime(model, batch), runtime(small, batch))
                cells += [f"{middle:.2f} ({low:.2f}-{high:.2f})", f"{1 / middle:.2f}"]
            rows.append((name, rounding, f"{gracile.profile(small, batch[:1]).macs / dense:.3f}", *cells))
            print(rows[-1], flush=True)
    header = ("network", "round_to", "MACs", "time in onnxruntime", "speed-up", "time in eager", "speed-up")
    text = (HERE / "pruning_speed.head.md").read_text()
    versions = f"onnxruntime {onnxruntime.__version__}"
    (HERE / "pruning_speed.md").write_text(
        f"{text}\n{markdown(header, rows)}\n\nMachine: {machine()}, {versions}; seed {SEED}.\n"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
