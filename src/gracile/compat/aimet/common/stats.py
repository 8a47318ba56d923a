"""What AIMET calls compression statistics, drawn from gracile's Report."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from gracile.report import Report
from gracile.text import table


@dataclass(frozen=True)
class GreedyCompressionRatioSelectionStats:
    """The evaluation dictionary of a greedy selection."""

    # Layer -> ratio that the layer really came to -> score of the model with only this layer compressed; of channel
    # pruning with only the channels gone that it reads, for all layers that read the same ones alike.
    eval_scores_dictionary: dict[str, dict[Decimal, float]]
    # The JSON file that holds it, to be given as ``saved_eval_scores_dict``.
    eval_scores_file: Path | None = None

    def __str__(self) -> str:
        rows = [
            (layer or "(model)", f"{ratio:.4f}", f"{score:.6g}")
            for layer, scores in self.eval_scores_dictionary.items()
            for ratio, score in scores.items()
        ]
        return table(("layer", "ratio", "score"), rows, right=(1, 2))


@dataclass(frozen=True)
class RankIndex:
    """The whole model with every layer within one relative residual."""

    residual: float
    accuracy: float
    compression_ratio: float
    # The relative loss of accuracy plus the compression ratio: the smaller, the better.
    objective: float


@dataclass(frozen=True)
class TarCompressionRatioSelectionStats:
    """All that a TAR selection has evaluated."""

    rank_indices: tuple[RankIndex, ...]

    @property
    def selected(self) -> RankIndex:
        """The one with the smallest objective; of equal ones the one that keeps more."""
        return min(self.rank_indices, key=lambda index: index.objective)

    def __str__(self) -> str:
        rows = [
            (
                f"{index.residual:.3f}", f"{index.accuracy:.6g}", f"{index.compression_ratio:.4f}",
                f"{index.objective:.4f}", "<- selected" if index is self.selected else "",
            )
            for index in self.rank_indices
        ]  # fmt: skip
        return table(("residual", "accuracy", "ratio", "objective", ""), rows, right=(0, 1, 2, 3))


@dataclass(frozen=True)
class CompressionStats:
    """Accuracies and ratios of a compressed model, as text of six decimals."""

    @dataclass(frozen=True)
    class LayerStats:
        """What became of one layer."""

        name: str
        # Cost of the two factors / cost of the layer, in the metric of the call; of a pruned layer the share of its
        # inputs that is left.  None where the layer stays as it is.
        compression_ratio: float | None

    baseline_model_accuracy: str
    compressed_model_accuracy: str
    # Parameters after / before, and multiply-accumulates after / before, of the whole model.
    memory_compression_ratio: str
    mac_compression_ratio: str
    # The layers that took part: in manual mode those that were given, otherwise all that can be compressed; in both
    # those that lost channels with others.
    per_layer_stats: list[LayerStats]
    # None in manual mode.
    compression_ratio_selection_stats: GreedyCompressionRatioSelectionStats | TarCompressionRatioSelectionStats | None
    # Everything that gracile has to say about the run.
    report: Report

    @classmethod
    def of(
        cls,
        report: Report,
        selection: GreedyCompressionRatioSelectionStats | TarCompressionRatioSelectionStats | None,
        layers: "Sequence[LayerStats] | None" = None,
    ) -> "CompressionStats":
        """Args: ``layers`` in place of the parts of the report, where these are no layers."""
        if layers is None:
            layers = [
                cls.LayerStats(layer.name, None if layer.size is None else layer.got)
                for layer in report.layers
                if layer.asked is not None
            ]
        return cls(
            baseline_model_accuracy=f"{report.score_before:.6f}",
            compressed_model_accuracy=f"{report.score_after:.6f}",
            memory_compression_ratio=f"{report.ratio('params'):.6f}",
            mac_compression_ratio=f"{report.ratio('macs'):.6f}",
            per_layer_stats=list(layers),
            compression_ratio_selection_stats=selection,
            report=report,
        )

    def __str__(self) -> str:
        totals = table(
            ("", "value"),
            [
                ("baseline accuracy", self.baseline_model_accuracy),
                ("compressed accuracy", self.compressed_model_accuracy),
                ("memory ratio", self.memory_compression_ratio),
                ("MAC ratio", self.mac_compression_ratio),
            ],
            right=(1,),
        )
        layers = table(
            ("layer", "ratio"),
            [
                (layer.name or "(model)", "-" if layer.compression_ratio is None else f"{layer.compression_ratio:.4f}")
                for layer in self.per_layer_stats
            ],
            right=(1,),
        )
        selection = self.compression_ratio_selection_stats
        return "\n\n".join([totals, layers, *([] if selection is None else [str(selection)])])
