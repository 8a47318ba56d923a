"""Evaluation functions that workers run; deaths are noted in files, as memory does not outlive them."""

import os
from pathlib import Path

import torch
from nets import SmallNet, agreement, images, trained_like

# Workers that import this module must find the same model.
with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL = trained_like(SmallNet(8))
DATA = images(4)
PLAIN = agreement(MODEL, DATA)


class Dying:
    """Ends its process, as a killed worker does, the first ``times`` times that it is called in a worker."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times, self.parent = folder, times, os.getpid()

    def __call__(self, model: torch.nn.Module) -> float:
        if os.getpid() != self.parent:
            deaths = len(list(self.folder.iterdir()))
            if deaths < self.times:
                (self.folder / f"{deaths}-{os.getpid()}").write_text("")
                os._exit(1)
        return PLAIN(model)
