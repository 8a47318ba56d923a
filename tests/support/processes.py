"""What each of two processes runs for tests/train/test_processes.py; each writes what it ends with."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

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


def start() -> tuple[Net, Net, torch.Tensor, torch.Tensor]:
    """Student, teacher, inputs, targets."""
    torch.manual_seed(0)
    return Net(8).eval(), Net(12).eval(), torch.randn(22, 4), torch.randn(22, 3)


def train(kind: str, accelerator: accelerate.Accelerator) -> dict[str, Any]:
    model, teacher, data, wanted = start()
    batches: Any = [(data[at : at + 3], wanted[at : at + 3]) for at in range(0, 21, 3)]
    optimizer: Any = partial(torch.optim.Adam, lr=0.01)
    plan, run = None, None
    if kind == "plain":
        model.drop.p = 0.0
        optimizer = partial(torch.optim.SGD, lr=0.1)
    elif kind == "learned":
        # Scores of their own, from what each process sees, and an update in every step.
        schedule = gracile.Schedule(kind="agp", start=1, every=1, times=5)
        run = gracile.prepare(model, data, gracile.Pruning(criterion="movement", sparsity=0.5, schedule=schedule))
    elif kind == "masked":
        plan = gracile.prune.plan(model, data, sparsity=0.5, round_to=1)
        model = gracile.mask(model, plan)
    else:
        # With a map that both processes must train alike.
        spec = gracile.Distillation(teacher, layers=["body"], adapter_rate=0.05)
        run = gracile.prepare(model, data, spec)
    if kind == "loader":
        batches = DataLoader(TensorDataset(data, wanted), batch_size=3, shuffle=True)
    done = fit(model, batches, loss=loss, optimizer=optimizer, epochs=2, run=run, accelerator=accelerator)
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if run is not None:
        if kind != "learned":
            found |= {f"map.{i}": m.detach() for i, m in enumerate(run.parts[0]._adapters._maps.values())}
        cut = run.finalize()
        if kind == "learned":
            found = {name: tensor.clone() for name, tensor in gracile.apply(model, cut).state_dict().items()}
            assert found["body.weight"].shape == (4, 4)
    if plan is not None:
        outputs = model.eval()(data)
        plain = gracile.prune.unmask(model)
        assert torch.allclose(gracile.apply(plain, plan)(data), outputs, atol=1e-5)
    return {"weights": found, "losses": done.losses, "steps": done.steps}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = accelerate.Accelerator(cpu=True)
    found = {kind: train(kind, accelerator) for kind in ("plain", "list", "loader", "masked", "learned")}
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
