"""The demo: a network trained on small images, compressed to half of its MACs, saved, loaded back and checked."""

from gracile.demo.data import DATASETS, Dataset, Images, Splits, digits, fashion_mnist
from gracile.demo.job import Settings, run_demo
from gracile.demo.network import SmallNet

__all__ = [
    "DATASETS",
    "Dataset",
    "Images",
    "Settings",
    "SmallNet",
    "Splits",
    "digits",
    "fashion_mnist",
    "run_demo",
]
