"""Files of integers in onnxruntime against the simulations that they were written from, on the test images.

python bench/quant_agreement.py                        # all rows that are missing; writes bench/quant_agreement.md
python bench/quant_agreement.py --networks vgg --formats W8A8
python bench/quant_agreement.py --table                # only writes the table of the rows that are there
"""

import argparse
import tempfile
from pathlib import Path

import onnxruntime
import torch
from base import dense
from fashion import load
from networks import NETWORKS
from quant_accuracy import CALIBRATION, FORMATS, some
from results import Rows, machine, markdown
from torch import Tensor

import gracile
from gracile.demo import Images
from gracile.export.agreement import operator_steps
from gracile.export.onnx import written_model
from gracile.export.runtime import outputs_of, session
from gracile.inputs import Inputs
from gracile.machine import saturates
from gracile.simulation import Simulation

HERE = Path(__file__).parent
KEYS = ("network", "format")
SEED, BATCH = 0, 250


@torch.no_grad()
def compared(simulation: Simulation, data: Images, file: Path) -> dict[str, object]:
    """The file's and the simulation's answers on all images, and the operators' integers on the same."""
    batches = data.images.split(BATCH)
    gracile.export.to_onnx(simulation, batches[0], file, dynamic_batch=True)
    opened = session(file)
    kernels = gracile.export.inspect_onnx(file)
    written = written_model(simulation, batches[0], dynamic_batch=True)
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    largest, means = 0, []
    for images in batches:
        inputs = Inputs.of(images)
        wanted.append(simulation(images))
        found.append(outputs_of(opened, inputs)[0])
        # It raises an error where an operator is further away than one step.
        operators = operator_steps(simulation, inputs, written)
        largest = max(largest, *(operator.largest for operator in operators))
        means.append(sum(operator.mean for operator in operators) / len(operators))
    ours, theirs = torch.cat(wanted), torch.cat(found)
    classes, answers = ours.argmax(1), theirs.argmax(1)
    return {
        "simulation": 100 * float((classes == data.labels).double().mean()),
        "file": 100 * float((answers == data.labels).double().mean()),
        "agreement": 100 * float((classes == answers).double().mean()),
        "equal": 100 * float((ours == theirs).double().mean()),
        "operators": len(operators),
        "largest": largest,
        "mean": sum(means) / len(means),
        "integer": kernels.integer,
        "kernels": len(kernels.kernels),
        "bytes": file.stat().st_size,
    }


def write(rows: Rows) -> None:
    found = {tuple(row[key] for key in KEYS): row for row in rows.rows}
    drawn: list[tuple[object, ...]] = []
    for network in NETWORKS:
        for name in FORMATS:
            row = found.get((network, name))
            if row is not None:
                drawn.append((network, name, f"{row['simulation']:.2f}", f"{row['file']:.2f}",
                              f"{row['agreement']:.2f}", f"{row['equal']:.2f}", row["operators"], row["largest"],
                              f"{row['mean']:.5f}", f"{row['integer']} of {row['kernels']}",
                              f"{float(str(row['bytes'])) / 1e3:.0f}"))  # fmt: skip
    header = ("network", "format", "simulation", "file", "same class", "same logits", "operators", "largest step",
              "mean step", "in integers", "kB")  # fmt: skip
    text = (HERE / "quant_agreement.head.md").read_text()
    where = f"{machine()}, onnxruntime {onnxruntime.__version__}, {'without' if saturates() else 'with'} VNNI or AMX"
    (HERE / "quant_agreement.md").write_text(f"{text}\n{markdown(header, drawn)}\n\nMachine: {where}; seed {SEED}.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--formats", nargs="*", default=["W8A8", "W4A8"], choices=FORMATS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    rows = Rows("quant_agreement", KEYS)
    cells = [(network, name) for name in given.formats for network in given.networks]
    missing = [] if given.table else [cell for cell in cells if not rows.has(**dict(zip(KEYS, cell, strict=True)))]
    for network, name in missing:
        batches = list(some(load("train"), CALIBRATION).images.split(BATCH))
        weights, activations = FORMATS[name]
        simulation = gracile.quantize(
            dense(network), batches[0], calibration=batches, weights=weights, activations=activations, seed=SEED
        )
        with tempfile.TemporaryDirectory() as folder:
            found = compared(simulation, load("test"), Path(folder) / "model.onnx")
        rows.add(network=network, format=name, **found)
        print(rows.rows[-1], flush=True)
        write(rows)
    write(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
