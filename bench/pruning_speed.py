"""Measured time of pruned networks in onnxruntime and eager, with and without widths that kernels like.

    python bench/pruning_speed.py               # writes bench/pruning_speed.md

Needs gracile[export], and torchvision for ResNet-18.
"""

import sys
from pathlib import Path

import onnxruntime
import torch
from networks import NETWORKS
from results import machine, markdown
from torch import Tensor, nn

import gracile
from gracile.timings import Runtime, Timing

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
ROUNDS, SEED = 31, 0
ROUNDINGS: tuple[object, ...] = (1, 16, "auto")
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "eager")


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Name -> a network without training, and the batch that it is timed on."""
    import support.torchvision  # noqa: F401, PLC0415 - makes torchvision import beside a CPU build of torch
    from torchvision.models import resnet18  # noqa: PLC0415

    torch.manual_seed(SEED)
    small = {name: (make(), torch.randn(32, 1, 28, 28)) for name, make in NETWORKS.items()}
    return {**small, "resnet18": (resnet18(weights=None), torch.randn(1, 3, 224, 224))}


def pruned(model: nn.Module, batch: Tensor) -> dict[str, nn.Module]:
    """Rounding -> the model at half of its MACs."""
    found = {}
    for rounding in ROUNDINGS:
        target = gracile.Target(macs=0.5)
        plan = gracile.prune.plan(model, batch[:1], target=target, round_to=rounding)  # type: ignore[arg-type]
        found[str(rounding)] = gracile.apply(model, plan)
    return found


def cells(timing: Timing) -> tuple[str, str]:
    return f"{timing.ratio:.2f} ({timing.ratio_low:.2f}-{timing.ratio_high:.2f})", f"{1 / timing.ratio:.2f}"


def main() -> None:
    rows: list[tuple[object, ...]] = []
    for name, (model, batch) in networks().items():
        model.eval()
        dense = gracile.profile(model, batch[:1]).macs
        models = {"dense": model, **pruned(model, batch)}
        tables = [
            gracile.benchmark(models, batch, runtime=runtime, threads=1, repeats=ROUNDS, seed=SEED)
            for runtime in RUNTIMES
        ]
        for rounding in map(str, ROUNDINGS):
            macs = gracile.profile(models[rounding], batch[:1]).macs / dense
            measured = [cell for table in tables for cell in cells(table[rounding])]
            rows.append((name, rounding, f"{macs:.3f}", *measured))
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
