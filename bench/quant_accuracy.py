"""Accuracy of networks of few bits on Fashion-MNIST, rounded after training and trained with their quantizers.

python bench/quant_accuracy.py                         # all rows that are missing; writes bench/quant_accuracy.md
python bench/quant_accuracy.py --networks vgg --methods nearest adaround --formats W4A8
python bench/quant_accuracy.py --table                 # only writes the table of the rows that are there
python bench/quant_accuracy.py --rates 0.01 0.003 --networks mobilenetv2   # points that training loses, held-out images
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from base import dense
from fashion import BATCH, _augmented, load
from networks import NETWORKS
from results import Rows, machine, markdown
from torch import Tensor, nn
from torch.nn import functional as F

import gracile
from gracile.demo import Images
from gracile.inputs import Inputs
from gracile.quant import QuantizedTraining, Rounding, adaround, correct_bias, quantize_within, round_sequentially
from gracile.simulation import Simulation

HERE = Path(__file__).parent
KEYS = ("network", "format", "method")
SEED, CALIBRATION, SCORED, TRAINED, ITERATIONS, TOLERANCE = 0, 1024, 2000, 20000, 500, 0.1
FORMATS = {"W8A8": ("int8", "uint8"), "W4A8": ("int4", "uint8"), "W4A4": ("int4", "uint4"), "W2A8": ("int2", "uint8")}
# Of training, as `--rates` has it on held-out images of the MobileNetV2-like network.
RATES = {"W8A8": 0.003, "W4A8": 0.003, "W4A4": 0.003, "W2A8": 0.01}
METHODS = ("nearest", "bias", "gptq", "adaround", "guided", "trained")
# Measured with networks of the same recipe; (network, format) -> (tool, floating point, quantized).
OTHERS = {
    ("vgg", "W8A8"): [("onnxruntime", 92.68, 92.68)],
    ("vgg", "W4A8"): [("onnxruntime", 92.68, 92.05)],
    ("resnet20", "W8A8"): [("onnxruntime", 92.48, 92.45)],
    ("resnet20", "W4A8"): [("onnxruntime", 92.48, 92.14)],
    ("mobilenetv2", "W8A8"): [("onnxruntime", 90.73, 90.72), ("AIMET", 90.73, 90.60), ("torchao pt2e", 90.73, 90.77)],
    ("mobilenetv2", "W4A8"): [
        ("onnxruntime", 90.73, 90.01), ("AIMET", 90.73, 88.02), ("AIMET, AdaRound 500", 90.73, 90.53),
    ],
}  # fmt: skip


@torch.no_grad()
def accuracy(model: nn.Module, data: Images) -> float:
    """Percent; in the layout of memory that all of this benchmark uses."""
    was_training = model.training
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in data.batches())
    model.train(was_training)
    return 100 * right / len(data)


def some(data: Images, count: int) -> Images:
    """``count`` images, always the same."""
    return data[torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))[:count]]


def rounded(
    method: str, model: nn.Module, name: str, parts: dict[str, Images], rate: float | None = None
) -> Simulation:
    """``model`` in the format of this name, after one of the methods."""
    batches = list(some(parts["train"], CALIBRATION).images.split(BATCH))
    example = Inputs.of(batches[0])
    weights, activations = FORMATS[name]
    settings = Rounding(iterations=ITERATIONS)
    if method == "guided":
        scored = some(parts["validation"], SCORED)
        path = quantize_within(
            model, batches[0], evaluate=partial(accuracy, data=scored), calibration=batches, tolerance=TOLERANCE,
            weights=weights, activations=activations, rounding=settings, seed=SEED,
        )  # fmt: skip
        print(path, flush=True)
        return path.simulation
    observer = {"weights": "mse"} if method == "adaround" else "mse"
    simulation = gracile.quantize(
        model, batches[0], calibration=batches, weights=weights, activations=activations, observer=observer, seed=SEED
    )
    if method == "gptq":
        round_sequentially(simulation, batches, example, act_order=True, seed=SEED)
    if method == "adaround":
        adaround(simulation, batches, example, settings=settings, seed=SEED)
    if method in ("bias", "gptq"):
        correct_bias(simulation, batches, example, seed=SEED)
    if method == "trained":
        train(simulation, some(parts["train"], TRAINED), RATES[name] if rate is None else rate)
    return simulation


def train(simulation: Simulation, data: Images, rate: float) -> None:
    """One epoch, in place."""
    run = QuantizedTraining("lsq").prepare(simulation)
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.SGD(simulation.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = len(data) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.25)
    simulation.train()
    for chosen in torch.randperm(len(data), generator=generator)[: steps * BATCH].split(BATCH):
        images: Tensor = _augmented(data.images[chosen], generator)
        loss = F.cross_entropy(simulation(images), data.labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        run.step()
        schedule.step()
    run.finish()
    simulation.eval()


def table(rows: Rows) -> str:
    found = {tuple(row[key] for key in KEYS): row for row in rows.rows}
    drawn: list[tuple[object, ...]] = []
    for network in NETWORKS:
        for name in FORMATS:
            for method in METHODS:
                row = found.get((network, name, method))
                if row is not None:
                    float_, score = float(str(row["dense"])), float(str(row["score"]))
                    drawn.append((network, name, method, f"{float_:.2f}", f"{score:.2f}", f"{float_ - score:.2f}",
                                  row["cpu_seconds"]))  # fmt: skip
            for tool, float_, score in OTHERS.get((network, name), []):
                drawn.append((network, name, tool, f"{float_:.2f}", f"{score:.2f}", f"{float_ - score:.2f}", ""))
    return markdown(("network", "format", "method", "float", "accuracy", "points lost", "CPU s"), drawn)


def write(rows: Rows) -> None:
    text = (HERE / "quant_accuracy.head.md").read_text()
    (HERE / "quant_accuracy.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}; seed {SEED}.\n")


def compare_rates(networks: list[str], formats: list[str], rates: list[float]) -> None:
    """Print what training at each rate loses on held-out images; no test image is looked at."""
    parts = {name: load(name) for name in ("train", "validation")}
    for network in networks:
        before = accuracy(dense(network), parts["validation"])
        for name in formats:
            for rate in rates:
                found = rounded("trained", dense(network), name, parts, rate)
                print(network, name, rate, f"{before - accuracy(found, parts['validation']):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rates", nargs="*", type=float)
    given = parser.parse_args()
    if given.rates:
        compare_rates(given.networks, given.formats, given.rates)
        return
    rows = Rows("quant_accuracy", KEYS)
    cells = [(n, f, m) for m in given.methods for f in given.formats for n in given.networks]
    missing = [] if given.table else [cell for cell in cells if not rows.has(**dict(zip(KEYS, cell, strict=True)))]
    parts = {name: load(name) for name in ("train", "validation", "test")} if missing else {}
    scores: dict[str, float] = {}
    for network, name, method in missing:
        model = dense(network)
        if network not in scores:
            scores[network] = accuracy(model, parts["test"])
        start = time.process_time()
        simulation = rounded(method, model, name, parts)
        seconds = round(time.process_time() - start, 1)
        score = accuracy(simulation, parts["test"])
        rows.add(network=network, format=name, method=method, dense=scores[network], score=score, cpu_seconds=seconds)
        print(rows.rows[-1], flush=True)
        write(rows)
    write(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
