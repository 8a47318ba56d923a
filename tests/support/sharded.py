"""What each of two processes runs for tests/train/test_sharded.py: a pruned model trains in shards (FSDP) on gloo."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import gracile
from gracile.plan import Plan


def start() -> tuple[nn.Module, Plan, torch.Tensor, torch.Tensor]:
    """Model, plan, inputs, targets."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    data, wanted = torch.randn(64, 8), torch.randn(64, 4)
    return model, gracile.prune.plan(model, data[:1], sparsity=0.5, round_to=1), data, wanted


def train(model: nn.Module, data: torch.Tensor, wanted: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        F.mse_loss(model(data), wanted).backward()
        optimizer.step()


def main(rendezvous: str, rank: int, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model, plan, data, wanted = start()
    small = gracile.apply(model, plan)
    for layer in small.children():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(small, mesh=mesh)
    train(small, data[rank::2], wanted[rank::2])
    full = get_model_state_dict(small, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save(full, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
