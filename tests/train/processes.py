"""What each of several processes runs in test_processes.py; the ranks write what they end with."""

import sys
from pathlib import Path

import accelerate
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gracile
from gracile.train import fit


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(4, width), nn.Dropout(0.5), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.body(x))))


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def main(kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = accelerate.Accelerator(cpu=True)
    rank = accelerator.process_index
    torch.manual_seed(0)
    model, teacher, data = Net(8).eval(), Net(12).eval(), torch.randn(22, 4)
    wanted = torch.randn(22, 3)
    plan = gracile.prune.plan(model, data, sparsity=0.5, round_to=1)
    if kind == "masked":
        model = gracile.mask(model, plan)
        run = None
    else:
        # One map that both processes must train alike.
        spec = gracile.Distillation(teacher, layers=["body"], adapter_rate=0.05)
        run = gracile.prepare(model, data, spec)
    if kind == "loader":
        batches = DataLoader(TensorDataset(data, wanted), batch_size=3, shuffle=True)
    else:
        batches = [(data[at : at + 3], wanted[at : at + 3]) for at in range(0, 21, 3)]
    done = fit(model, batches, loss=loss, optimizer=torch.optim.Adam, epochs=2, run=run, accelerator=accelerator)
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if run is not None:
        found |= {f"map.{i}": m.detach() for i, m in enumerate(run._parts[0]._adapters._maps.values())}
        run.finalize()
    else:
        model.eval()
        outputs = model(data)
        plain = gracile.prune.unmask(model)
        assert torch.allclose(gracile.apply(plain, plan)(data), outputs, atol=1e-5)
    # The random numbers of dropout differ between the processes.
    torch.save({"weights": found, "losses": done.losses, "steps": done.steps, "type": type(model).__name__},
               folder / f"{rank}.pt")  # fmt: skip
    accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
