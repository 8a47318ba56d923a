"""One compress call with a store, for tests/test_resume.py to kill; prints what it ends with.

Arguments: the store, and a file to which each evaluation adds a line.
"""

import hashlib
import sys
from pathlib import Path

import torch
from nets import SmallNet, agreement, images, trained_like

import gracile


def main(store: str, log: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, data = trained_like(SmallNet(8)), images(4)
    score = agreement(model, data)

    def evaluate(candidate: torch.nn.Module) -> float:
        with Path(log).open("a") as file:
            file.write("evaluated\n")
        return score(candidate)

    result = gracile.compress(
        model, data[:1], evaluate=evaluate, target=gracile.Target(macs=0.6), method="channel_pruning", round_to=1,
        search=gracile.Search(candidates=4), calibration=[data], store=store,
    )  # fmt: skip
    digest = hashlib.sha256(result.plan.to_json().encode())
    for name, tensor in result.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    report = result.report
    sys.stdout.write(f"{digest.hexdigest()} {[entry.score for entry in report.dictionary]} {report.score_after}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
