"""A small BERT pruned while it is fine-tuned: attention heads by movement, the feed-forward layers by Taylor.

    python bench/text_pruning.py            # resumes; writes bench/text_pruning.md
    python bench/text_pruning.py --table    # only writes the table of the rows that are there

Needs the packages that bench/fortunes.py names, accelerate, onnx, onnxscript and onnxruntime.
"""

import io
import logging
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fortunes
import onnxruntime
import torch
from base import CACHE
from fortunes import BATCH, TOKENS, Batch, Texts
from results import Rows, machine, markdown
from safetensors.torch import load_file, save_file
from torch import nn

import gracile
from gracile.testing import equivalence

HERE = Path(__file__).parent
KEYS = ("method", "removed", "seed")
DENSE_EPOCHS, DENSE_RATE, EPOCHS, RATE, PAIRS = 3, 3e-4, 2, 2e-4, 15
HEADS, HIDDEN = ["*.attention.self.query"], ["*.intermediate.dense"]
# Ten updates of the masks in the first two thirds of the steps.
UPDATES, EVERY = 10, 8
SEEDS = (0, 1, 2)

DENSE, LONGER = "dense", "dense, two epochs more"
METHODS = ("movement + taylor, distilled", "movement + taylor", "l2 at once", "l2 at once, distilled")


def cells() -> list[tuple[str, float, int]]:
    """(method, removed, seed): one seed of all first."""
    return [
        cell
        for seed in SEEDS
        for cell in (
            (DENSE, 0.0, seed),
            *((method, removed, seed) for removed in (0.7, 0.5) for method in (METHODS[0], "l2 at once")),
            *((method, removed, seed) for method in (METHODS[1], METHODS[3]) for removed in (0.7, 0.5)),
            (LONGER, 0.0, seed),
        )
    ]


def recipe(method: str, removed: float, teacher: nn.Module) -> list[gracile.session.PartSpec]:
    if method.startswith("l2"):
        at_once = gracile.Schedule()
        parts = [
            gracile.Pruning(criterion="l2", sparsity=removed, schedule=at_once, include=layers)
            for layers in (HEADS, HIDDEN)
        ]
    else:
        gradual = gracile.Schedule(kind="agp", start=EVERY, every=EVERY, times=UPDATES)
        parts = [
            gracile.Pruning(criterion="movement", sparsity=removed, schedule=gradual, include=HEADS),
            gracile.Pruning(criterion="taylor", sparsity=removed, schedule=gradual, include=HIDDEN),
        ]
    distilled = [gracile.Distillation(teacher, temperature=2.0)] if method.endswith("distilled") else []
    return [*parts, *distilled]


def dense(seed: int, data: Texts) -> nn.Module:
    """Fine-tuned; trained first where its file is missing."""
    model = fortunes.pretrained(seed)
    file = CACHE / f"fortunes_{seed}.safetensors"
    if not file.exists():
        fortunes.train(model, data, epochs=DENSE_EPOCHS, rate=DENSE_RATE, seed=seed)
        CACHE.mkdir(exist_ok=True)
        beside = file.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, beside)
        beside.rename(file)
    model.load_state_dict(load_file(file))
    return model.eval()


def run_cell(cell: tuple[str, float, int], train: Texts, test: Texts, rows: Rows) -> None:
    method, removed, seed = cell
    example = fortunes.inputs(test.batch([0, 1], TOKENS))
    start = time.process_time()
    original = dense(seed, train)
    measured: dict[str, object] = {}
    model = small = original
    plan = None
    if method != DENSE:
        start = time.process_time()
        model = dense(seed, train)
        run = None if method == LONGER else gracile.prepare(model, example, recipe(method, removed, original))
        fortunes.train(model, train, epochs=EPOCHS, rate=RATE, seed=seed + 100, run=run)
        small = model
        if run is not None:
            plan = run.finalize()
            small = gracile.apply(model, plan).eval()
    seconds = time.process_time() - start
    if plan is not None:
        measured = checked(model, small, plan, example, test)
        if method == METHODS[0] and not seed:
            # All methods leave the same shapes.
            measured |= timed(original, small, test)
    cost, before = gracile.profile(small, example), gracile.profile(original, example)
    rows.add(
        **dict(zip(KEYS, cell, strict=True)),
        score=fortunes.accuracy(small, test),
        macs=cost.macs / before.macs,
        parameters=sum(p.numel() for p in layers_of(small)) / sum(p.numel() for p in layers_of(original)),
        heads=[len(layer.attention.self.query.weight) // layer.attention.self.attention_head_size
               for layer in small.bert.encoder.layer],  # type: ignore[union-attr]
        hidden=[len(layer.intermediate.dense.weight) for layer in small.bert.encoder.layer],  # type: ignore[union-attr]
        **measured,
        cpu_seconds=round(seconds, 1),
    )  # fmt: skip
    print(rows.rows[-1], flush=True)


def layers_of(model: nn.Module) -> list[nn.Parameter]:
    """All but the embeddings, which are more than the three layers and are never multiplied."""
    return [parameter for name, parameter in model.named_parameters() if "embeddings" not in name]


def checked(model: nn.Module, small: nn.Module, plan: gracile.Plan, example: Batch, test: Texts) -> dict[str, object]:
    """How far the small model is from the one with zeros: in float64 on the example, and on all texts of the test."""
    zeroed, pruned = fortunes.logits(model, test), fortunes.logits(small, test)
    return {
        "error": equivalence(model, plan, example).error,
        "difference": float((zeroed - pruned).abs().max() / zeroed.abs().max()),
        "attributes": sorted({edit.name for edit in plan.edits if isinstance(edit, gracile.plan.SetAttribute)}),
    }


def timed(original: nn.Module, small: nn.Module, test: Texts) -> dict[str, object]:
    """Time of the small model / time of the original on one batch: medians over pairs taken by turns."""
    batch = fortunes.inputs(test.batch(list(range(BATCH)), TOKENS))
    found: dict[str, object] = {}
    for name, ready in (("eager", eagerly), ("onnxruntime", in_onnxruntime)):
        before, after = ready(original, batch), ready(small, batch)
        ratios = []
        for pair in range(PAIRS + 2):
            first, second = (before, after) if pair % 2 else (after, before)
            taken = (_seconds(first), _seconds(second))
            ratios.append(taken[1] / taken[0] if pair % 2 else taken[0] / taken[1])
        found[name] = statistics.median(ratios[2:])
    return found


def eagerly(model: nn.Module, batch: Batch) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model(**batch).logits

    return run


def in_onnxruntime(model: nn.Module, batch: Batch) -> Callable[[], object]:
    file = io.BytesIO()
    exported = torch.onnx.export(model, (), kwargs=batch, dynamo=True, verbose=False)
    exported.save(file)  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {item.name: batch[item.name].numpy() for item in session.get_inputs()}
    return lambda: session.run(None, feed)


def _seconds(run: Callable[[], object]) -> float:
    # Of this process: other work on the machine counts less.
    start = time.process_time()
    run()
    return time.process_time() - start


def table(rows: Rows) -> str:
    drawn: list[tuple[object, ...]] = []
    for removed in sorted({float(str(row["removed"])) for row in rows.rows}):
        for method in (DENSE, LONGER, *METHODS):
            found = [row for row in rows.rows if row["method"] == method and row["removed"] == removed]
            if found:
                drawn.append((f"{removed:.0%}", method, *_row(found)))
    header = (
        "removed", "method", "accuracy", "seeds", "MACs", "parameters", "heads", "hidden", "time eager",
        "time onnxruntime", "largest difference", "CPU s",
    )  # fmt: skip
    return markdown(header, drawn)


def _row(found: list[dict[str, object]]) -> tuple[object, ...]:
    def mean(name: str, form: str) -> str:
        values = [float(str(row[name])) for row in found if row.get(name) is not None]
        return format(statistics.fmean(values), form) if values else ""

    scores = [float(str(row["score"])) for row in found]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    worst = [float(str(row["difference"])) for row in found if "difference" in row]
    return (
        f"{statistics.fmean(scores):.1f}{spread}",
        len(found),
        mean("macs", ".3f"),
        mean("parameters", ".3f"),
        "-".join(map(str, found[0]["heads"])),  # type: ignore[call-overload]
        "-".join(map(str, found[0]["hidden"])),  # type: ignore[call-overload]
        mean("eager", ".2f"),
        mean("onnxruntime", ".2f"),
        f"{max(worst):.0e}" if worst else "",
        mean("cpu_seconds", ".0f"),
    )


def main(only_table: bool) -> None:
    rows = Rows("text_pruning", KEYS)
    train, test = (None, None) if only_table else fortunes.load()
    for cell in cells():
        if train is not None and test is not None and not rows.has(**dict(zip(KEYS, cell, strict=True))):
            run_cell(cell, train, test, rows)
            write(rows)
    write(rows)


def write(rows: Rows) -> None:
    text = (HERE / "text_pruning.head.md").read_text()
    versions = f"onnxruntime {onnxruntime.__version__}"
    (HERE / "text_pruning.md").write_text(f"{text}\n{table(rows)}\n\nMachine: {machine()}, {versions}.\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    main(only_table="--table" in sys.argv)
