"""The verdict, and the figures of the whole model."""

from gracile.cost import Metric
from gracile.html import Figures, Notes, Number, Part, Section, Verdict
from gracile.report.records import Evidence
from gracile.report.sections.written import milliseconds
from gracile.text import count

METRIC_NAMES: dict[Metric, str] = {"macs": "MACs", "params": "Parameters", "bytes": "Bytes"}


def draw(report: Evidence) -> Section:
    """What came out, the answer first."""
    parts: list[Part] = [_verdict(report), Figures([*_costs(report), _score(report)])]
    if report.notes:
        parts.append(Notes(report.notes))
    return Section(title="Summary", parts=parts)


def _verdict(report: Evidence) -> Verdict:
    change = report.score - report.score_before
    moved = "stayed at" if change == 0 else f"{'rose' if change > 0 else 'fell'} from {report.score_before:.6g} to"
    # Integers take fewer bytes, and are as many.
    metric: Metric = "bytes" if report.in_integers else "params"
    return Verdict(
        text=f"{report.ratio('macs'):.1%} of the MACs and {report.ratio(metric):.1%} of the "
        f"{METRIC_NAMES[metric].lower()} remain; "
        f"the score {moved} {report.score:.6g}",
        detail=_target(report),
        good=_reached(report),
    )


def _reached(report: Evidence) -> bool:
    if report.latency is not None:
        return report.latency.met
    found = report.reached()
    # Amounts of the user's own are rounded within a search.
    return report.bound is None or found is None or found[0] <= report.bound * (1 if report.own is None else 1 + 1e-6)


def _target(report: Evidence) -> str:
    if report.latency is not None:
        return report.latency.verdict
    found = report.reached()
    if report.bound is None or found is None:
        return "The ratios were set by hand." if report.search == "manual" else ""
    amount, unit = found
    whole = report.own is None
    after, bound = (count(int(value)) if whole else f"{value:.5g}" for value in (amount, report.bound))
    if _reached(report):
        return f"The target is reached: {after} of at most {bound} {unit}."
    return f"The target is missed: {after} {unit} remain, where at most {bound} were wanted."


def _costs(report: Evidence) -> list[Number]:
    return [*_time(report), *_own(report), *_counts(report)]


def _time(report: Evidence) -> list[Number]:
    if report.latency is None:
        return []
    first, last = report.latency.timings.entries[:2]
    return [
        Number(
            title="Time of a call", before=milliseconds(first.median), after=milliseconds(last.median),
            ratio=report.latency.reached, note=f"{report.latency.reached:.1%} remain, measured",
        )
    ]  # fmt: skip


def _own(report: Evidence) -> list[Number]:
    own = report.own
    if own is None:
        return []
    return [
        Number(
            title=own.name, before=f"{own.before:.5g}", after=f"{own.after:.5g}", ratio=own.ratio,
            note=f"{own.ratio:.1%} remain",
        )
    ]  # fmt: skip


def _counts(report: Evidence) -> list[Number]:
    return [
        Number(
            title=title,
            before=count(getattr(report.before, metric)),
            after=count(getattr(report.after, metric)),
            ratio=report.ratio(metric),
            note=f"{report.ratio(metric):.1%} remain",
        )
        for metric, title in METRIC_NAMES.items()
    ]


def _score(report: Evidence) -> Number:
    tuned = "" if report.score_fine_tuned is None else f"{report.score_after:.6g} before fine-tuning"
    return Number(title="Score", before=f"{report.score_before:.5g}", after=f"{report.score:.5g}", note=tuned)
