"""Reports to draw: one of every kind of record, and one whose names are hostile."""

from gracile.report import (
    Entry,
    Environment,
    LayerError,
    LayerReport,
    LayerTotals,
    QuantizationReport,
    QuantizerReport,
    Record,
    Report,
    StageReport,
    Totals,
)
from gracile.timings import LayerLatencies, LayerLatency

HOSTILE = '</script><img src=x onerror="alert(1)">&amp;"\'<b>%{y}</b>'


def totals(macs: int) -> Totals:
    return Totals(macs=macs, params=macs // 10, bytes=4 * macs // 10)


def report(layers: int = 3, *, extra: str = "block") -> Report:
    """A report of two methods in which ``extra`` stands in every name."""
    names = [f"{extra}.{index}.conv" for index in range(layers)]
    return Report(
        model=f"Net {extra}" if extra == HOSTILE else "Net",
        method="spatial_svd+channel_pruning", search="exact", metric="macs", bound=520_000.0,
        before=totals(1_000_000), after=totals(480_000),
        score_before=0.91, score_after=0.85, score_fine_tuned=0.89,
        stages=(
            StageReport(method="spatial_svd", search="exact", bound=700_000.0, before=totals(1_000_000),
                        after=totals(690_000), score_after=0.9),
            StageReport(method="channel_pruning", search="exact", bound=520_000.0, before=totals(690_000),
                        after=totals(480_000), score_after=0.85, score_fine_tuned=0.89, equivalence=3e-16),
        ),
        layers=(
            *(
                LayerReport(name=name, method="spatial_svd", asked=0.5, got=0.48 + index / 100, size=3 + index,
                            full_size=9 + index, before=totals(300_000 // (index + 1)),
                            after=totals(150_000 // (index + 1)))
                for index, name in enumerate(names)
            ),
            LayerReport(name=f"{extra}.0.weight[0]", method="channel_pruning", asked=0.6, got=0.5, size=8, full_size=16,
                        read_by=(f"{extra}.1", "")),
            LayerReport(name="head", method="spatial_svd", reason=f"too small: {extra}"),
            LayerReport(name=f"{extra}.bias[0]", method="channel_pruning", reason="frozen: it is an output"),
        ),
        costs=(
            *(
                LayerTotals(name=name, before=totals(300_000 // (index + 1)), after=totals(150_000 // (index + 1)))
                for index, name in enumerate(names)
            ),
            LayerTotals(name="norm", before=totals(0), after=totals(0)),
        ),
        layer_latency=LayerLatencies(
            layers=tuple(
                LayerLatency(name=name, before=2e-3 / (index + 1), after=1e-3 / (index + 1), integers=index == 0)
                for index, name in enumerate(names)
            ),
            runtime="onnxruntime", version=f"1.0 {extra}", threads=2, repeats=15, machine=extra,
        ),
        dictionary=tuple(
            Entry(layer=name, ratio=ratio / 4, size=3 + index if ratio == 2 else 10 * ratio, score=0.9 - 0.1 / ratio)
            for index, name in enumerate(names) for ratio in (1, 2, 3)
        ),
        dictionary_baseline=0.9,
        passes=(Record(name="refit", changed=(extra,), details={"batches": 3.0, extra: extra}),),
        quantization=QuantizationReport(
            quantizers=tuple(
                QuantizerReport(name=f"{name}_{role}", role=role, bits=8, low=-1.0, high=1.0, smallest=-1.5,
                                largest=0.5, counts=tuple(range(60)), outside=0.25)
                for name in names for role in ("weight", "activation")
            ),
            layers=(*(LayerError(name=name, sqnr=30.0 + index) for index, name in enumerate(names)),
                    LayerError(name="head", sqnr=None)),
            examples=64,
        ),
        notes=(f"exclude: {extra!r} matches no layer",), seconds={"search": 1.5},
        environment=Environment(gracile="0.1.0", seed=7),
    )  # fmt: skip
