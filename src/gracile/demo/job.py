"""The demo's job: train, compress, fine-tune, save, load back, check, write an ONNX file of integers, time it."""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from torch import nn

from gracile.demo.data import DATASETS, Dataset, Images, Splits
from gracile.demo.network import SmallNet
from gracile.demo.training import accuracy, log_likelihood, train
from gracile.errors import FileError, InputError, MissingExtraError
from gracile.export.checkpoint import load
from gracile.extras import extra
from gracile.latency import benchmark
from gracile.pipeline import Result, compress
from gracile.recipe import Target
from gracile.timings import Runtime, Timings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much work the demo does with a data set."""

    # Channels of the network's first stage.
    width: int
    # Epochs and highest learning rate of the training, and of the fine-tuning.
    epochs: int
    rate: float
    fine_tune_epochs: int
    fine_tune_rate: float
    batch: int
    # Training images at most, those of them that calibrate, held-out ones that score the candidates, and test images
    # that time a forward pass.
    training: int
    calibration: int
    scoring: int
    timing: int
    # Threads of the computation; None leaves torch's setting.  Tiny tensors gain nothing from more than one, lose a lot
    # where other processes want the cores, and give the same numbers on any machine only with a fixed number.
    threads: int | None = 1


SETTINGS: Mapping[Dataset, Settings] = MappingProxyType(
    {
        "digits": Settings(
            width=32, epochs=12, rate=0.1, fine_tune_epochs=4, fine_tune_rate=0.02, batch=64,
            training=1_137, calibration=512, scoring=300, timing=256,
        ),
        "fashion-mnist": Settings(
            width=16, epochs=3, rate=0.1, fine_tune_epochs=1, fine_tune_rate=0.02, batch=128,
            training=15_000, calibration=1_000, scoring=1_000, timing=64, threads=None,
        ),
    }
)  # fmt: skip


# Low-rank factors, then fewer channels, then integers.
METHOD = "spatial_svd+channel_pruning+int8"
ONNX = "model.onnx"


def run_demo(
    console: Console,
    *,
    data: Dataset = "digits",
    output: str | Path | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Result:
    """Run the job and tell the console what happens.

    Args:
        data: "digits" or "fashion-mnist".
        output: where the compressed network is saved; by default a new folder among the temporary files.
        seed: of everything random: the same seed gives the same numbers.
        settings: of smaller or larger work than usual.

    Raises:
        InputError: ``data`` is unknown.
        FileError: the images are missing, or the folder cannot be written or read back.
    """
    if data not in DATASETS:
        raise InputError(f"data is {data!r}; it is one of {', '.join(DATASETS)}")
    settings = settings or SETTINGS[data]
    with _threads(settings.threads):
        return _run(console, data, output, seed, settings)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(console: Console, data: Dataset, output: str | Path | None, seed: int, settings: Settings) -> Result:
    start = time.perf_counter()
    splits = DATASETS[data](seed)
    splits = replace(splits, train=splits.train[: settings.training])
    _say(
        console,
        f"{data}: {len(splits.train)} images to train, {len(splits.held_out)} held out for the search, "
        f"{len(splits.test)} to test",
    )
    model = trained(splits.train, settings, seed)
    _say(console, f"trained in {time.perf_counter() - start:.1f} s; compressing to half of the MACs by {METHOD}")
    result = compressed(model, splits, settings, seed)
    taken = time.perf_counter() - start
    _say(console, f"\n{result.report}\n")
    folder = result.save(output or Path(tempfile.mkdtemp(prefix="gracile-demo-")))
    check(folder, SmallNet(settings.width), result.model, splits.test)
    _say(console, f"saved in {folder}; loaded back into a fresh network: bit-equal on all test images")
    timings = None
    try:
        _say(console, str(result.to_onnx(folder / ONNX, dynamic_batch=True)))
        files: dict[str, nn.Module | Path] = {"original": model, "compressed": folder / ONNX}
        timings = benchmark(files, splits.test.images[: settings.timing], threads=settings.threads or 1)
        _say(console, f"\n{timings}\n")
    except MissingExtraError as error:
        _say(console, f"no ONNX file and no times: {error}")
    _say(console, verdict(result, timings, taken))
    return result


def trained(data: Images, settings: Settings, seed: int) -> SmallNet:
    """A new network, trained; in evaluation mode."""
    # A fork, so that the caller's random stream goes on as if nothing had happened.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallNet(settings.width)
    train(
        model, data, epochs=settings.epochs, rate=settings.rate, batch=settings.batch, seed=seed, name="train"
    )  # fmt: skip
    return model


def compressed(model: SmallNet, splits: Splits, settings: Settings, seed: int) -> Result:
    """The network at half of its MACs, fine-tuned; no test image takes part in any decision."""
    scoring = splits.held_out[: settings.scoring]

    def fine_tune(small: nn.Module) -> None:
        train(
            small, splits.train, epochs=settings.fine_tune_epochs, rate=settings.fine_tune_rate,
            batch=settings.batch, seed=seed + 1, name="fine-tune",
        )  # fmt: skip

    return compress(
        model,
        # As many as are timed.
        splits.train.images[: settings.timing],
        evaluate=lambda candidate: accuracy(candidate, splits.test),
        evaluate_search=lambda candidate: log_likelihood(candidate, scoring),
        target=Target(macs=0.5),
        method=METHOD,
        search="exact",
        calibration=list(splits.train[: settings.calibration].batches(128)),
        fine_tune=fine_tune,
        layer_latency=_runtime(),
        seed=seed,
    )


def _runtime() -> Runtime:
    """In which layers are timed: where the files are, if that is installed."""
    try:
        for package in ("onnx", "onnxruntime"):
            extra(package, "export")
    except MissingExtraError:
        return "eager"
    return "onnxruntime"


@torch.no_grad()
def check(folder: Path, fresh: nn.Module, saved: nn.Module, data: Images) -> None:
    """Load ``folder`` into ``fresh`` and compare with ``saved``.

    Raises:
        FileError: the folder cannot be read, or gives a model with other values or outputs.
    """
    loaded = load(folder, fresh).eval()
    values, expected = loaded.state_dict(), saved.state_dict()
    same = values.keys() == expected.keys() and all(torch.equal(values[name], expected[name]) for name in expected)
    if not same or not all(torch.equal(loaded(images), saved(images)) for images, _ in data.batches()):
        raise FileError(f"{folder} was read back as another model than was saved; please report this as a bug")


def verdict(result: Result, timings: Timings | None, seconds: float) -> str:
    """All in one line."""
    report = result.report
    scores = f"accuracy {report.score_before:.2f} % -> {report.score_after:.2f} %"
    if report.score_fine_tuned is not None:
        scores += f" -> {report.score_fine_tuned:.2f} % fine-tuned"
    line = f"{report.ratio('macs'):.3f} of the MACs, {scores}, in {seconds:.1f} s"
    if timings is None:
        return line
    small = timings["compressed"]
    return (
        f"{line}; in {timings.runtime} {small.ratio:.2f} of the time ({small.ratio_low:.2f} to {small.ratio_high:.2f} "
        f"in half of {timings.repeats} rounds), {small.bytes / timings['original'].bytes:.2f} of the file"
    )


def _say(console: Console, text: str) -> None:
    # Tables come aligned: no wrapping, no markup.
    console.out(text, highlight=False)
