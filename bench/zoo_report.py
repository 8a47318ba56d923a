"""From the rows of `zoo.py` to bench/zoo.md."""

import importlib.metadata
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from results import Rows, machine, markdown
from zoo_check import Row

PAGE = Path(__file__).parent / "zoo.md"
ZOOS = ("torchvision", "timm", "transformers", "own")

_HEAD = """# Structural pruning on model zoos

Half of the channels of every channel group removed, at random (seed 0), weights random, batch norms and scales
randomised. "Equal": the cut model's outputs are those of the original with the removed slices set to zero, to 1e-9 of
the largest output where all is computed in float64, to 1e-4 where the model casts to single precision; what the zeros
change is in the column "effect". Groups that the code would not follow are left whole ("dropped").

    python bench/zoo.py torchvision --torch-pruning 20     # and timm (with 8), transformers, own; it resumes
    python bench/zoo.py report

{machine}; {versions}.
Seconds are CPU seconds of one process with one thread, on a machine that others used too. timm: one small model of
each of its modules (of three large ones four layers only); images of more than 384 pixels reduced to about 256.
Mixtral computes its experts by plain matrix products.
transformers: small configurations, with heads where there are any. Of torchvision vit_h_14 is left out (memory).
Groups, plan and slicing are gracile's work on the captured program; capture (`torch.export`) and verification are
apart. The search for attributes and programs, which runs the model, counts as plan.
"""

_TORCH_PRUNING = """
## Beside Torch-Pruning {version}

As in its README: magnitude, ratio 0.5, local, the last layer ignored; where that fails, with the numbers of heads that
modules note, and integers of those modules that held widths set by hand. Success: it runs, the output has its shape
and is finite, and at most 90 % of the parameters are left; whether it is right is not looked at. It had 20 CPU seconds
a model (timm 8). Both ran on the same model, one after the other; the seconds are of the models where it succeeds.

"""


def _rows(zoo: str) -> list[Row]:
    return [Row(**row) for row in Rows(f"zoo_{zoo}", ("model",)).rows]  # type: ignore[arg-type]


def _median(values: Iterable[float]) -> str:
    found = list(values)
    return f"{statistics.median(found):.2f}" if found else "-"


def _done(rows: list[Row], name: str) -> str:
    """How many of those that were tried, and that the original can do, succeeded."""
    tried = [getattr(row, name) for row in rows if getattr(row, name) not in ("", "-")]
    return f"{tried.count('ok')}/{len(tried)}"


def _summary(zoo: str, rows: list[Row]) -> tuple[object, ...]:
    stages = Counter(row.stage for row in rows)
    equal = [row for row in rows if row.stage == "equal"]
    rungs: Counter[str] = Counter(part.partition(":")[0] for row in equal for part in row.rungs.split())
    return (
        zoo,
        len(rows),
        sum(row.nodes > 0 for row in rows),
        sum(row.groups > 0 for row in rows),
        sum(row.params_left < 0.9 for row in equal),
        f"**{len(equal)}**",
        stages["run"],
        len(rows) - len(equal) - stages["run"],
        *(_done(rows, name) for name in ("backward", "copied", "loaded", "batch", "exported", "compiled")),
        ", ".join(f"{rung} {count}" for rung, count in rungs.most_common()) or "-",
        f"{statistics.median(row.params_left for row in equal):.2f}" if equal else "-",
        f"{statistics.mean(row.frozen for row in equal):.0%}" if equal else "-",
    )


def _phases(zoo: str, rows: list[Row]) -> tuple[object, ...]:
    equal = [row for row in rows if row.stage == "equal"]
    phases: tuple[Callable[[Row], float], ...] = (
        lambda row: row.capture_s,
        lambda row: row.groups_s,
        lambda row: row.plan_s,
        lambda row: row.slice_s,
        lambda row: row.verify_s,
    )
    return zoo, *(_median(phase(row) for row in equal) for phase in phases), f"{sum(row.ours for row in equal):.1f}"


def _beside(zoo: str, rows: list[Row]) -> tuple[object, ...]:
    theirs = [row for row in rows if row.tp.startswith("ok") and row.stage == "equal"]
    return (
        zoo,
        len(rows),
        sum(row.tp.startswith("ok") for row in rows),
        sum(row.stage == "equal" and row.params_left < 0.9 for row in rows),
        _median(row.theirs for row in theirs),
        _median(row.ours for row in theirs),
        f"{sum(row.theirs for row in theirs):.1f}",
        f"{sum(row.ours for row in theirs):.1f}",
        f"{sum(row.ours <= row.theirs for row in theirs)}/{len(theirs)}",
        f"{sum(row.capture_s for row in theirs):.1f}",
    )


def _reasons(rows: list[Row]) -> str:
    """The reasons for frozen axes that are among the five of most models, the outputs' own apart."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({part.rpartition(" (")[0] for part in row.reasons.split("; ") if part})
    return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common(8))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0e}"


def _detail(row: Row) -> tuple[object, ...]:
    checks = {name: getattr(row, name) for name in ("backward", "copied", "loaded", "batch", "exported", "compiled")}
    notes = [f"{name}: {value}" for name, value in checks.items() if value not in ("ok", "", "-")]
    notes += [f"not by the original either: {', '.join(name for name, value in checks.items() if value == '-')}"] * (
        "-" in checks.values()
    )
    notes += [row.problem] if row.problem else []
    times = " / ".join(f"{value:.2f}" for value in (row.capture_s, row.groups_s, row.plan_s, row.slice_s, row.verify_s))
    return (
        row.model.partition("/")[2],
        row.stage,
        row.groups,
        f"{row.params_left:.2f}",
        _number(row.error),
        _number(row.effect),
        row.rungs or "-",
        times,
        f"{row.theirs:.2f}" if row.tp.startswith("ok") else "-",
        row.tp[:60].replace("|", "/"),
        "; ".join(notes)[:220].replace("|", "/").replace("\n", " "),
    )


def write() -> None:
    found = {zoo: rows for zoo in ZOOS if (rows := _rows(zoo))}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torchvision", "timm", "transformers")
    )
    summary = (
        "zoo", "models", "captured", "with groups", "cut below 90 %", "equal", "wrong", "failed", "backward", "copied",
        "loaded", "other batch", "exported", "compiled", "rungs (models)", "median left", "frozen parameters",
    )  # fmt: skip
    phases = ("zoo", "capture", "groups", "plan", "slice", "verify", "sum of groups, plan, slice")
    beside = (
        "zoo", "models", "Torch-Pruning succeeds", "gracile: equal and below 90 %", "its median", "gracile's median",
        "its sum", "gracile's sum", "gracile not slower", "capture, apart",
    )  # fmt: skip
    everything = [row for rows in found.values() for row in rows]
    parts = [
        _HEAD.format(machine=machine(), versions=versions),
        markdown(summary, [_summary(zoo, rows) for zoo, rows in found.items()]),
        "\nMedian CPU seconds:\n",
        markdown(phases, [_phases(zoo, rows) for zoo, rows in found.items()]),
        "\nMost frequent reasons for frozen axes (models):\n",
        "\n".join(f"- {zoo}: {_reasons(rows)}" for zoo, rows in found.items()),
        _TORCH_PRUNING.format(version=importlib.metadata.version("torch-pruning")),
        markdown(beside, [_beside(zoo, rows) for zoo, rows in [*found.items(), ("all", everything)]]),
    ]
    details = ("model", "stage", "groups", "left", "error", "effect", "rungs",
               "capture / groups / plan / slice / verify", "TP s", "TP", "notes")  # fmt: skip
    for zoo, rows in found.items():
        ordered = sorted(rows, key=lambda row: row.model)
        parts += [f"\n## {zoo}\n", markdown(details, [_detail(row) for row in ordered])]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")
