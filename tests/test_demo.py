import copy
import gzip
import re
import struct
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import gracile
from gracile.demo import DATASETS, Settings, SmallNet, digits, fashion_mnist, run_demo
from gracile.demo.data import read_idx
from gracile.demo.job import METHOD, ONNX, SETTINGS, check, trained, verdict
from gracile.demo.training import accuracy, log_likelihood
from gracile.errors import FileError, InputError, MissingExtraError

TINY = Settings(
    width=4, epochs=1, rate=0.1, fine_tune_epochs=1, fine_tune_rate=0.02, batch=32, training=256, calibration=64,
    scoring=50, timing=8,
)  # fmt: skip


def _demo(output: Path | None, seed: int = 0) -> tuple[gracile.Result, str]:
    console = Console(file=StringIO(), width=40)
    result = run_demo(console, output=output, seed=seed, settings=TINY)
    return result, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gracile.Result, str]:
    folder = tmp_path_factory.mktemp("demo") / "small"
    return folder, *_demo(folder)


def test_demo_tells_and_saves(told: tuple[Path, gracile.Result, str]) -> None:
    folder, result, text = told
    assert "digits: 256 images to train, 300 held out for the search, 360 to test" in text
    assert str(result.report) in text, "the table must not be wrapped"
    assert "bit-equal" in text
    assert re.search(r"0\.\d{3} of the MACs, accuracy \d+\.\d\d % -> \d+\.\d\d % -> \d+\.\d\d % fine-tuned", text)
    assert re.search(r"in onnxruntime \d\.\d\d of the time .*, 0\.\d\d of the file", text)
    assert re.search("every operator within (0 steps|1 step)", text)
    assert result.report.ratio("macs") <= 0.5
    assert result.report.method == METHOD
    assert result.report.search == "exact"
    assert result.report.layer_latency is not None
    assert len({entry.score for entry in result.report.dictionary}) > 5, "the candidates are told apart"
    assert {entry.name for entry in folder.iterdir()} == {"plan.json", "model.safetensors", "report.json", ONNX}
    loaded = gracile.load(folder, SmallNet(TINY.width)).eval()
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded(images), result.model(images))


def test_demo_repeats(told: tuple[Path, gracile.Result, str], tmp_path: Path) -> None:
    _, first, _ = told
    again, _ = _demo(tmp_path / "again")
    timed = {"seconds": {}, "layer_latency": None}
    assert again.report.model_copy(update=timed) == first.report.model_copy(update=timed)
    values, expected = again.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(values[name], expected[name]) for name in expected)


def test_another_seed_into_a_new_folder_without_a_runtime(
    told: tuple[Path, gracile.Result, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtraError("onnx is not installed: pip install 'gracile[export]'")

    monkeypatch.setattr(gracile.Result, "to_onnx", missing)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other, text = _demo(None, seed=1)
    (folder,) = (entry for entry in tmp_path.iterdir() if entry.name.startswith("gracile-demo-"))
    assert f"saved in {folder};" in text
    assert "no ONNX file and no times: onnx is not installed" in text
    assert "onnxruntime" not in verdict(other, None, 1.0)
    _, first, _ = told
    assert other.report.score_fine_tuned != first.report.score_fine_tuned or other.plan != first.plan


def test_unknown_data() -> None:
    with pytest.raises(InputError, match="data is 'mnist'; it is one of digits, fashion-mnist"):
        run_demo(Console(file=StringIO()), data="mnist")  # type: ignore[arg-type]


def test_every_data_set_has_settings() -> None:
    assert SETTINGS.keys() == DATASETS.keys()


def test_digits_are_split_without_overlap() -> None:
    splits = digits(3)
    parts = [splits.train, splits.held_out, splits.test]
    assert [len(part) for part in parts] == [1137, 300, 360]
    assert all(part.labels.bincount(minlength=10).min() > 0.08 * len(part) for part in parts)
    again, other = digits(3), digits(4)
    assert torch.equal(again.test.images, splits.test.images)
    assert not torch.equal(other.test.images, splits.test.images)


def test_training_learns_and_leaves_the_random_stream_alone() -> None:
    splits = digits()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = trained(splits.train, replace(TINY, width=8, epochs=4), seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert not model.training
    assert accuracy(model, splits.test) > 80
    assert -1.5 < log_likelihood(model, splits.held_out) < 0


def test_check_sees_another_model(told: tuple[Path, gracile.Result, str]) -> None:
    folder, result, _ = told
    data = digits().test[:10]
    model = copy.deepcopy(result.model)
    check(folder, SmallNet(TINY.width), model, data)
    with torch.no_grad():
        model.get_parameter("classifier.bias")[0] += 1e-2
    with pytest.raises(FileError, match="read back as another model"):
        check(folder, SmallNet(TINY.width), model, data)


def _write_idx(file: Path, values: np.ndarray) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    file.write_bytes(gzip.compress(header + values.tobytes()))


def test_fashion_mnist_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5010, 28, 28), dtype=np.uint8)
    labels = (np.arange(5010) % 10).astype(np.uint8)
    for stem, count in (("train", 5010), ("t10k", 20)):
        _write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", pixels[:count])
        _write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", labels[:count])
    splits = fashion_mnist(folder=tmp_path)
    assert [len(part) for part in (splits.train, splits.held_out, splits.test)] == [10, 5000, 20]
    assert splits.train.images.shape == (10, 1, 28, 28)
    assert torch.allclose(splits.test.images[3, 0] * 0.3530 + 0.2860, torch.from_numpy(pixels[3]) / 255, atol=1e-6)
    assert splits.held_out.labels.tolist() == labels[10:].tolist()


def test_missing_fashion_mnist_gives_the_line_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"train-images-idx3-ubyte\.gz is missing.*apt-get install dataset-fashion-mni"):
        fashion_mnist(folder=tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"no gzip",
        gzip.compress(b""),
        gzip.compress(b"\0\0\x08"),
        gzip.compress(b"\0\0\x08\x02\0\0\0\x02"),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcd"),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x04abcd"),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x04abcd")[:-6],
    ],
    ids=["no gzip", "empty", "no header", "no shape", "too many labels", "floats", "cut off"],
)
def test_damaged_idx_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.gz").write_bytes(data)
    with pytest.raises(FileError, match=r"x\.gz .*; install it again with: apt-get"):
        read_idx(tmp_path / "x.gz")
