"""Train the dense networks once and keep their weights in ``bench/cache``.

python bench/base.py            # all networks that are not there yet
"""

import logging
import time
from pathlib import Path

import torch
from fashion import accuracy, load, train
from networks import NETWORKS
from safetensors.torch import load_file, save_file
from torch import nn

CACHE = Path(__file__).parent / "cache"
EPOCHS = {"vgg": 6, "resnet20": 5, "mobilenetv2": 6}
SEED = 0


def dense(name: str, seed: int = SEED) -> nn.Module:
    """The network ``name`` in eval mode, trained from ``seed``; trained first where its file is missing."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    file = CACHE / (f"{name}_{seed}.safetensors" if seed else f"{name}.safetensors")
    if not file.exists():
        start = time.monotonic()
        train(model, load("train"), EPOCHS[name], lr=0.1, seed=seed)
        model.to(memory_format=torch.contiguous_format)
        CACHE.mkdir(exist_ok=True)
        beside = file.with_suffix(".partial")
        save_file(model.state_dict(), beside)
        beside.rename(file)
        logging.info(
            "%s: %.2f %% on the test images, trained in %.0f s",
            name,
            accuracy(model, load("test")),
            time.monotonic() - start,
        )
    model.load_state_dict(load_file(file))
    return model.eval()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for network in NETWORKS:
        dense(network)
