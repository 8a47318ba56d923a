"""FSDP as docs/training.md has it, with two processes on gloo; and what `fit` says to accelerators that shard."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.sharded import start, train
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.train import fit


def test_a_pruned_model_trained_in_shards_is_the_one_trained_whole(tmp_path):
    script = str(Path(__file__).parents[1] / "support" / "sharded.py")
    started = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path / "meeting"), str(rank), str(tmp_path / "full.pt")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], told
    model, plan, data, wanted = start()
    whole, expected = gracile.apply(model, plan), gracile.apply(model, plan)
    whole.load_state_dict(torch.load(tmp_path / "full.pt", weights_only=True))
    train(expected, data, wanted)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], tensor)
    assert gracile.applied_plan(whole) == plan


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_accelerators_that_shard_are_refused(kind):
    model = nn.Linear(2, 2)
    sharding = SimpleNamespace(distributed_type=SimpleNamespace(value=kind))
    with pytest.raises(InputError, match=rf"shards parameters \({kind}\).*docs/training\.md"):
        fit(model, [torch.ones(1, 2)], loss=lambda m, x: m(x).sum(), accelerator=sharding)
