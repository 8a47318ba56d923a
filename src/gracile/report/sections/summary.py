"""The verdict, and the figures of the whole model."""

from gracile.cost import Metric
from gracile.html import Figures, Notes, Number, Part, Section, Verdict
from gracile.report.records import Evidence
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
    return Verdict(
        text=f"{report.ratio('macs'):.1%} of the MACs and {report.ratio('params'):.1%} of the parameters remain; "
        f"the score {moved} {report.score:.6g}",
        detail=_target(report),
        good=_reached(report),
    )


def _reached(report: Evidence) -> bool:
    after = getattr(report.after, report.metric, None)
    return report.bound is None or after is None or after <= report.bound


def _target(report: Evidence) -> str:
    after = getattr(report.after, report.metric, None)
    if report.bound is None or after is None:
        return "The ratios were set by hand." if report.bound is None else ""
    unit = METRIC_NAMES.get(report.metric, report.metric)  # type: ignore[call-overload]
    unit = unit if unit.isupper() or unit == "MACs" else unit.lower()
    if _reached(report):
        return f"The target is reached: {count(after)} of at most {count(int(report.bound))} {unit}."
    return f"The target is missed: {count(after)} {unit} remain, where at most {count(int(report.bound))} were wanted."


def _costs(report: Evidence) -> list[Number]:
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
