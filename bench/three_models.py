"""Models of torchvision, timm and transformers to int8 ONNX, as docs/three-models.md does it, at full size.

    python bench/three_models.py                  # all rows that are missing, then bench/three_models.md
    python bench/three_models.py resnet18 bert    # only these

Needs gracile[export], torchvision, timm and transformers.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from results import Rows, machine, markdown
from torch import Tensor, nn

import gracile
from gracile.machine import machine as processor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
import support.torchvision  # noqa: E402, F401 - makes torchvision import beside a CPU build of torch
import timm  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402

SEED, ROUNDS = 0, 15


def image(name: str, library: str) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A network with random weights, one image, calibration data."""
    make: Any = getattr(torchvision.models, name) if library == "torchvision" else None
    model = make(weights=None) if make else timm.create_model(name, pretrained=False)
    return model.eval(), torch.randn(1, 3, 224, 224), [torch.randn(8, 3, 224, 224)]


def words(layers: int, width: int, heads: int, length: int) -> tuple[nn.Module, dict[str, Tensor], list[Any]]:
    """A BERT of transformers, one text, calibration data."""
    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
        use_cache=False,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()

    def texts(number: int) -> dict[str, Tensor]:
        ids = torch.randint(0, config.vocab_size, (number, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return model, texts(1), [texts(8)]


# Name -> where it comes from, how it is made, and what is done to it.
CASES: dict[str, tuple[str, Callable[[], Any], str]] = {
    "resnet18": ("torchvision", lambda: image("resnet18", "torchvision"), "int8"),
    "mobilenet_v3_small": ("torchvision", lambda: image("mobilenet_v3_small", "torchvision"), "int8"),
    "vit_tiny_patch16_224": ("timm", lambda: image("vit_tiny_patch16_224", "timm"), "int8"),
    "convnext_atto": ("timm", lambda: image("convnext_atto", "timm"), "int8"),
    "BERT, 12 x 768, 128 words": ("transformers", lambda: words(12, 768, 12, 128), "int8"),
    "BERT, 6 x 384, 32 words": ("transformers", lambda: words(6, 384, 12, 32), "int8"),
    "BERT, 2 x 64, 16 words": ("transformers", lambda: words(2, 64, 4, 16), "int8"),
    "mobilenet_v2, widths of any size": ("torchvision", lambda: image("mobilenet_v2", "torchvision"), "prune 1"),
    "mobilenet_v2, widths of 16": ("torchvision", lambda: image("mobilenet_v2", "torchvision"), "prune 16"),
    "vit_tiny_patch16_224, weight SVD": ("timm", lambda: image("vit_tiny_patch16_224", "timm"), "weight_svd"),
}


def compressed(kind: str, model: nn.Module, example: Any, calibration: list[Any]) -> nn.Module:
    """What stands in the second file."""
    if kind == "int8":
        return gracile.quantize(model, example, calibration=calibration, seed=SEED)
    if kind == "weight_svd":
        plan = gracile.lowrank.plan(model, example, method="weight_svd", cost_ratio=0.9)
    else:
        plan = gracile.prune.plan(
            model, example, target=gracile.Target(macs=0.7), round_to=int(kind.removeprefix("prune ")), seed=SEED
        )
    return gracile.apply(model, plan)


def row(name: str) -> dict[str, object]:
    """One line of the table."""
    library, make, kind = CASES[name]
    torch.manual_seed(SEED)
    model, example, calibration = make()
    before = gracile.profile(model, example)
    started = time.process_time()
    small = compressed(kind, model, example, calibration)
    made = time.process_time() - started
    after = before if kind == "int8" else gracile.profile(small, example)
    with tempfile.TemporaryDirectory() as place:
        files = {"original": Path(place) / "a.onnx", "small": Path(place) / "b.onnx"}
        gracile.export.to_onnx(model, example, files["original"])
        started = time.process_time()
        written = gracile.export.to_onnx(small, example, files["small"])
        exported = time.process_time() - started
        kernels = gracile.export.inspect_onnx(files["small"])
        table = gracile.benchmark(files, example, repeats=ROUNDS, seed=SEED)
        times = {key: gracile.export.operator_times(file, example) for key, file in files.items()}
    found = table["small"]
    return {
        "library": library,
        "kind": kind,
        "macs": round(after.macs / before.macs, 3),
        "params": before.params,
        "original_ms": round(1e3 * table["original"].median, 2),
        "ratio": f"{found.ratio:.2f} ({found.ratio_low:.2f}-{found.ratio_high:.2f})",
        "size": round(found.bytes / table["original"].bytes, 3),
        "integer": f"{kernels.integer}/{len(kernels.kernels)}" if kind == "int8" else "",
        "steps": written.steps,
        "where": {key: described(item) for key, item in times.items()},
        "seconds": [round(made, 1), round(exported, 1)],
    }


def described(times: gracile.export.OperatorTimes) -> str:
    """The operators that take most, with their nodes and shares."""
    return ", ".join(f"{item.operator} x{item.nodes} {item.share:.0%}" for item in times.operators[:4])


def write(rows: Rows) -> None:
    """The table of all rows, in the order of `CASES`."""
    header = (
        "model", "from", "done", "parameters, M", "MACs", "fp32, ms", "time / fp32", "file / fp32", "integer kernels",
        "CPU s: made, written", "processor",
    )  # fmt: skip
    order = list(CASES)
    found = sorted(rows.rows, key=lambda line: (str(line["machine"]), order.index(str(line["name"]))))
    lines: list[tuple[object, ...]] = []
    wheres: list[tuple[object, ...]] = []
    for line in found:
        parameters = round(int(str(line["params"])) / 1e6, 2)
        seconds: Any = line["seconds"]
        where: Any = line["where"]
        lines.append((
            line["name"], line["library"], line["kind"], parameters, line["macs"], line["original_ms"], line["ratio"],
            line["size"], line["integer"], f"{seconds[0]}, {seconds[1]}", line["machine"],
        ))  # fmt: skip
        wheres.append((line["name"], where["original"], where["small"], line["machine"]))
    text = (HERE / "three_models.head.md").read_text()
    (HERE / "three_models.md").write_text(
        f"{text}\n{markdown(header, lines)}\n\n## Where the time goes\n\n"
        "The four operators that take most, by onnxruntime's profiler (`gracile.export.operator_times`).\n\n"
        f"{markdown(('model', 'fp32', 'compressed', 'processor'), wheres)}\n\n"
        f"Table made on {machine()}, "
        f"onnxruntime {onnxruntime.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}, "
        f"transformers {transformers.__version__}; seed {SEED}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES), help="beginnings of names are enough")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = Rows("three_models", ("name", "machine"))
    here = {"machine": processor()}
    for name in CASES:
        if any(name.lower().startswith(wanted.lower()) for wanted in given.names) and not rows.has(name=name, **here):
            rows.add(name=name, **here, **row(name))
            print(rows.rows[-1], flush=True)
            write(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
