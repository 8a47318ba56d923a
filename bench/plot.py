"""The README's picture: accuracy against MACs of the VGG-like network, from the rows of lowrank_accuracy.py.

python bench/plot.py        # writes docs/images/vgg_spatial_svd.svg
"""

from pathlib import Path

import matplotlib as mpl
from lowrank_accuracy import AIMET, KEYS
from results import Rows

mpl.use("svg")
# Text stays text, and the same data gives the same file.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "gracile", "font.size": 11})

from matplotlib import pyplot as plt  # noqa: E402

FILE = Path(__file__).parent.parent / "docs" / "images" / "vgg_spatial_svd.svg"
STYLES = {
    "aware": ("gracile, 1,024 unlabelled images", "#0b6e4f", "o-"),
    "plain": ("gracile, no data", "#8aa39b", "s--"),
}


def main() -> None:
    rows = [
        row
        for row in Rows("lowrank_accuracy", KEYS).rows
        if (row["network"], row["method"], row["search"]) == ("vgg", "spatial_svd", "exact")
    ]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for factors, (label, colour, style) in STYLES.items():
        points = sorted(
            (float(row["macs"]), float(row["compressed"]) - float(row["dense"]))
            for row in rows
            if row["factors"] == factors
        )
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label)
    aimet = sorted(
        (macs, -lost)
        for (network, method, _), (macs, lost, _) in AIMET.items()
        if (network, method) == ("vgg", "spatial_svd")
    )
    axes.plot(
        *zip(*aimet, strict=True), "x", color="#b23a48", label="AIMET 2.42 (same recipe, other weights)", markersize=9
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(
        xlabel="MACs, share of the dense network", ylabel="test accuracy, points against dense", ylim=(-8, 0.6),
        title="VGG-like network on Fashion-MNIST, spatial SVD, no fine-tuning",
    )  # fmt: skip
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.25)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FILE, metadata={"Date": None})


if __name__ == "__main__":
    main()
