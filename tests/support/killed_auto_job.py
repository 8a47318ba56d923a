"""One automatic search with a store, for tests/test_resume.py to kill; prints what it ends with.

Arguments: the store, and a file to which each evaluation adds a line.
"""

import sys
from pathlib import Path

import torch
from nets import agreement, images, trained_like
from torch import nn

import gracile


def main(store: str, log: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = trained_like(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(288, 4))
    )
    data = images(4)
    score = agreement(model, data)

    def evaluate(candidate: torch.nn.Module) -> float:
        with Path(log).open("a") as file:
            file.write("evaluated\n")
        return score(candidate)

    result = gracile.compress(
        model, data[:1], evaluate=evaluate, target=gracile.Target(macs=0.6), method="auto", round_to=1, search="tar",
        auto=gracile.Auto(trials=10, batch=3, methods=("spatial_svd", "prune"), margin=0.0), store=store,
    )  # fmt: skip
    auto = result.report.auto
    assert auto is not None
    trials = [trial.model_dump_json(exclude={"seconds"}) for trial in auto.trials]
    sys.stdout.write(f"{trials} {auto.front} {auto.chosen} {result.plan.to_json()} {result.report.score}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
