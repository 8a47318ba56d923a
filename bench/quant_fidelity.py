"""int8 against floating point on real pretrained weights: sentence embeddings, and MTCNN's networks.

    python bench/quant_fidelity.py            # resumes; writes bench/quant_fidelity.md
    python bench/quant_fidelity.py --table    # only writes the tables of the rows that are there

Needs what bench/fortunes.py names, scikit-learn, onnx, onnxscript, onnxruntime, and
``pip install --no-deps facenet-pytorch==2.6.0``.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fortunes
import onnxruntime
import torch
from onnxruntime import quantization
from results import Rows, machine, markdown
from torch import Tensor, nn

import gracile
from gracile.inputs import Inputs
from gracile.quant import smooth
from gracile.simulation import Simulation

HERE = Path(__file__).parent
SEED, CALIBRATED, MEASURED, LENGTH, BATCH = 0, 256, 1000, 32, 50
ROWS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8, smallest and largest": {"observer": "minmax"},
    "int8, in onnxruntime": {},
    "smoothed": {"smooth": {}},
    "smoothed, factors inserted, alpha 0.5": {"smooth": {"insert": True, "alpha": 0.5}},
    "smoothed, factors inserted": {"smooth": {"insert": True}},
    "smoothed, factors inserted, in onnxruntime": {"smooth": {"insert": True}},
    "weights alone": {"activations": None},
    "onnxruntime's quantize_dynamic": {"dynamic": True},
}
# The networks of faces are convolutional, without outliers that factors could move.
FACE_ROWS = [name for name, given in ROWS.items() if not {"smooth", "dynamic"} & given.keys()]
THRESHOLDS = {"PNet": 0.6, "RNet": 0.7, "ONet": 0.7}
SIDES = {"PNet": 64, "RNet": 24, "ONet": 48}


class Embedder(nn.Module):
    """Tokens and mask -> sentence embeddings of length one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * kept).sum(1) / kept.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)


def in_file(simulation: Simulation, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The simulation as onnxruntime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        gracile.export.to_onnx(simulation, example, file, dynamic_batch=True)
        return opened(file)


def dynamic(model: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Any]:
    """The model as onnxruntime quantizes it without calibration: the range of each tensor is measured as it runs.

    Its weights are unsigned, as its kernels for signed ones saturate on processors without VNNI.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, other = Path(folder) / "float.onnx", Path(folder) / "dynamic.onnx"
        gracile.export.to_onnx(model, example, file, dynamic_batch=True)
        quantization.quantize_dynamic(file, other, per_channel=True, weight_type=quantization.QuantType.QUInt8)
        return opened(other)


def opened(file: Path) -> Callable[..., Any]:
    """A file as onnxruntime runs it."""
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*given: Tensor) -> Any:
        found = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
        return torch.from_numpy(found[0]) if len(found) == 1 else tuple(map(torch.from_numpy, found))

    return run


def made(model: nn.Module, calibration: list[Any], name: str) -> Callable[..., Any]:
    """The quantized model of one row."""
    example = calibration[0] if isinstance(calibration[0], tuple) else (calibration[0],)
    given = {"calibration": calibration, "seed": SEED, **ROWS[name]}
    if given.pop("dynamic", False):
        return dynamic(model, example)
    if given.get("activations", 0) is None:
        given["calibration"] = None
    smoothing = given.pop("smooth", None)
    simulation = gracile.quantize(model, calibration[0], **given)
    if smoothing is not None:
        smooth(simulation, calibration, Inputs.of(calibration[0]), seed=SEED, **smoothing)
    return in_file(simulation, example) if "onnxruntime" in name else simulation


@torch.no_grad()
def sentences(rows: Rows) -> None:
    if all(rows.has(network="MiniLM", row=name) for name in ROWS):
        return
    import transformers  # noqa: PLC0415 - only after support.torchvision, which fortunes imports

    package = fortunes._package()
    tokenizer = transformers.AutoTokenizer.from_pretrained(package)
    texts = [text for text, _ in fortunes.texts()][: CALIBRATED + MEASURED]
    tokens = tokenizer(texts, truncation=True, padding="max_length", max_length=LENGTH, return_tensors="pt")
    pairs = list(zip(tokens["input_ids"].split(BATCH), tokens["attention_mask"].split(BATCH), strict=True))
    first = CALIBRATED // BATCH
    calibration, measured = pairs[:first], pairs[-(MEASURED // BATCH) :]
    model = Embedder(transformers.BertModel.from_pretrained(package)).eval()
    wanted = torch.cat([model(*batch) for batch in measured])
    for name in ROWS:
        if not rows.has(network="MiniLM", row=name):
            run = made(model, calibration, name)
            rows.add(network="MiniLM", row=name, **near(torch.cat([run(*batch) for batch in measured]), wanted))
            print(rows.rows[-1], flush=True)


def near(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """How well embeddings and their neighbours agree."""
    cosines = (found * wanted).sum(1) / found.norm(dim=1)
    orders = []
    for values in (found, wanted):
        similar = values @ values.T
        orders.append(similar.fill_diagonal_(-2).topk(10).indices)
    same = orders[0][:, :1] == orders[1][:, :1]
    shared = (orders[0].unsqueeze(2) == orders[1].unsqueeze(1)).any(2)
    return {
        "cosine": float(cosines.mean()), "lowest": float(cosines.min()), "nearest": float(same.float().mean()),
        "of_ten": float(shared.float().mean()),
    }  # fmt: skip


def pieces(side: int, left: bool) -> list[Tensor]:
    """Batches of squares of the photographs' halves, at three scales, as MTCNN scales its pixels."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - so that the table needs no scikit-learn

    found = []
    for image in load_sample_images().images:
        whole = (torch.tensor(image).permute(2, 0, 1).float() - 127.5) / 128
        half = whole[..., : whole.shape[-1] // 2] if left else whole[..., whole.shape[-1] // 2 :]
        for scale in (1.0, 0.5, 0.25):
            small = nn.functional.interpolate(half[None], scale_factor=scale, mode="area")[0]
            squares = small.unfold(1, side, side).unfold(2, side, side)
            found.append(squares.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side))
    every = torch.cat([squares for squares in found if len(squares)])
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(SEED))[:512]
    return list(every[order].split(64))


class Logits(nn.Module):
    """One of MTCNN's networks without its softmax, whose output would hide errors: [batch, 2, ...] and boxes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, module in network.named_children():
            if isinstance(module, nn.Softmax):
                setattr(network, name, nn.Identity())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(x)
        # Boxes first, then ONet's landmarks; probabilities last.
        return found[-1], found[0]


@torch.no_grad()
def faces(rows: Rows) -> None:
    if importlib.util.find_spec("facenet_pytorch") is None:
        raise SystemExit("install the weights: pip install --no-deps facenet-pytorch==2.6.0")
    from facenet_pytorch.models import mtcnn  # noqa: PLC0415 - only after support.torchvision

    for network, side in SIDES.items():
        model = Logits(getattr(mtcnn, network)()).eval()
        calibration, measured = pieces(side, left=True), pieces(side, left=False)
        wanted = [model(x) for x in measured]
        for name in FACE_ROWS:
            if not rows.has(network=network, row=name):
                run = made(model, calibration, name)
                # A file takes any batch size.
                found = [run(x) for x in measured]
                rows.add(network=network, row=name, **compared(found, wanted, THRESHOLDS[network]))
                print(rows.rows[-1], flush=True)


def compared(found: list[Any], wanted: list[Any], threshold: float) -> dict[str, float]:
    gaps, boxes = ([torch.cat([f(item).flatten() for item in items]) for items in (found, wanted)]
                   for f in (lambda item: item[0][:, 1] - item[0][:, 0], lambda item: item[1]))  # fmt: skip
    says = [gap.sigmoid() >= threshold for gap in gaps]
    return {
        "logit_error": float((gaps[0] - gaps[1]).norm() / gaps[1].norm()),
        "box_error": float((boxes[0] - boxes[1]).norm() / boxes[1].norm()),
        "decisions": float((says[0] == says[1]).float().mean()),
        "places": len(says[0]),
        "faces": int(says[1].sum()),
    }


def write(rows: Rows) -> None:
    found = sorted(rows.rows, key=lambda row: [*ROWS].index(str(row["row"])))
    text = (HERE / "quant_fidelity.head.md").read_text()
    near_rows = [
        (row["row"], *(f"{row[key]:.4f}" for key in ("cosine", "lowest", "nearest", "of_ten")))
        for row in found if row["network"] == "MiniLM"
    ]  # fmt: skip
    face_rows = [
        (row["network"], row["row"], f"{row['logit_error']:.4f}", f"{row['box_error']:.4f}",
         f"{row['decisions']:.5f}", row["faces"], row["places"])
        for row in rows.rows if row["network"] != "MiniLM"
    ]  # fmt: skip
    parts = [
        text,
        markdown(("MiniLM", "mean cosine", "lowest", "nearest", "of ten"), near_rows),
        "",
        markdown(("network", "row", "logit error", "box error", "decisions", "faces", "places"), face_rows),
        "",
        f"Machine: {machine()}, onnxruntime {onnxruntime.__version__}; seed {SEED}.\n",
    ]
    (HERE / "quant_fidelity.md").write_text("\n".join(parts))


def main() -> None:
    rows = Rows("quant_fidelity", ("network", "row"))
    if "--table" not in sys.argv:
        faces(rows)
        sentences(rows)
    write(rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
