"""int8 against fp32 in onnxruntime, beside onnxruntime's own quantize_static: time and size of the files.

    python bench/quant_speed.py                       # all rows that are missing, then bench/quant_speed.md
    python bench/quant_speed.py resnet18 bert         # only these
    python bench/quant_speed.py --threads 2

Needs gracile[export] and torchvision.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from results import Rows, machine, markdown
from torch import Tensor, nn

import gracile
from gracile.machine import machine as processor
from gracile.machine import saturates

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
SEED = 0
# By the batch size.
ROUNDS = {1: 25, 16: 7}
# For quantize_static, what suits the processor: kernels for int8 weights saturate on some.
WEIGHTS = quantization.QuantType.QUInt8 if saturates() else quantization.QuantType.QInt8
# Processors with integer instructions and without have different kernels: each has rows of its own.
KEYS = ("name", "batch", "threads", "machine")
IMAGES = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "vit_b_16")
BATCHES = (1, 16)
WORDS, LENGTH = 30522, 128


class Bert(nn.Module):
    """The shape of BERT-base: 12 layers of width 768 with 12 heads, on 128 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 768), nn.Parameter(torch.randn(LENGTH, 768) / 50)
        layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.norm, self.pool = nn.LayerNorm(768), nn.Linear(768, 768)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.pool(self.layers(self.norm(self.words(ids) + self.places))[:, 0]))


def made(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """The network and a batch of noise."""
    torch.manual_seed(SEED)
    if name == "bert":
        return Bert().eval(), torch.randint(0, WORDS, (batch, LENGTH))
    import support.torchvision  # noqa: F401, PLC0415 - makes torchvision import beside a CPU build of torch
    import torchvision  # noqa: PLC0415

    return getattr(torchvision.models, name)(weights=None).eval(), torch.randn(batch, 3, 224, 224)


class Once(quantization.CalibrationDataReader):  # type: ignore[misc]
    """One batch for quantize_static."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([feed])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def row(name: str, batch: int, threads: int) -> dict[str, object]:
    """One line of the table."""
    model, data = made(name, batch)
    with tempfile.TemporaryDirectory() as place:
        files = {kind: Path(place) / f"{kind}.onnx" for kind in ("fp32", "int8", "prepared", "static")}
        written = gracile.export.to_onnx(model, data, files["fp32"], verify=False)
        # Ranges are of no account here, and a large batch takes long.
        calibration = data[:2].repeat(batch, *[1] * (data.ndim - 1))[:batch]
        simulation = gracile.quantize(model, data, calibration=[calibration], observer="minmax", seed=SEED)
        checked = gracile.export.to_onnx(simulation, data, files["int8"], verify=batch == BATCHES[0])
        quant_pre_process(files["fp32"], files["prepared"])
        quantization.quantize_static(
            files["prepared"], files["static"], Once({written.inputs[0]: data.numpy()}),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=WEIGHTS, extra_options={"WeightSymmetric": True},
        )  # fmt: skip
        kernels = gracile.export.inspect_onnx(files["int8"])
        table = gracile.benchmark(
            {kind: files[kind] for kind in ("fp32", "int8", "static")},
            data,
            threads=threads,
            repeats=ROUNDS[batch],
            seed=SEED,
        )
        beside = gracile.benchmark(
            {kind: files[kind] for kind in ("static", "int8")}, data, threads=threads, repeats=ROUNDS[batch], seed=SEED
        )["int8"]
    own, static = table["int8"], table["static"]
    return {
        "fp32_ms": round(1e3 * table["fp32"].median, 2),
        "int8": f"{own.ratio:.3f} ({own.ratio_low:.3f}-{own.ratio_high:.3f})",
        "static": f"{static.ratio:.3f} ({static.ratio_low:.3f}-{static.ratio_high:.3f})",
        "beside": f"{beside.ratio:.3f} ({beside.ratio_low:.3f}-{beside.ratio_high:.3f})",
        "size": round(own.bytes / table["fp32"].bytes, 4),
        "static_size": round(static.bytes / table["fp32"].bytes, 4),
        "integer": f"{kernels.integer}/{len(kernels.kernels)}",
        "steps": checked.steps,
    }


def write(rows: Rows) -> None:
    columns = {
        "network": "name", "batch": "batch", "threads": "threads", "fp32, ms": "fp32_ms", "int8 / fp32": "int8",
        "quantize_static / fp32": "static", "beside quantize_static": "beside", "size": "size",
        "its size": "static_size", "integer kernels": "integer", "steps": "steps", "processor": "machine",
    }  # fmt: skip
    lines = [tuple("" if line[key] is None else line[key] for key in columns.values()) for line in rows.rows]
    text = (HERE / "quant_speed.head.md").read_text()
    (HERE / "quant_speed.md").write_text(
        f"{text}\n{markdown(tuple(columns), lines)}\n\n"
        f"Table made on {machine()}, onnxruntime {onnxruntime.__version__}; seed {SEED}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[*IMAGES, "bert"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="*", default=list(BATCHES), choices=BATCHES)
    given = parser.parse_args()
    # quantize_static warns of what its own pre-processing did.
    logging.disable(logging.WARNING)
    rows = Rows("quant_speed", KEYS)
    for batch in given.batch:
        for name in given.networks:
            key = {"name": name, "batch": batch, "threads": given.threads, "machine": processor()}
            if not rows.has(**key):
                rows.add(**key, **row(name, batch, given.threads))
                print(rows.rows[-1], flush=True)
                write(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
