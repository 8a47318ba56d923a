"""Result rows on disk: one JSON object a line, appended when a cell is done, so that a run resumes."""

import json
import platform
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "results"


class Rows:
    """The rows of one benchmark, found again by their key columns."""

    def __init__(self, name: str, keys: tuple[str, ...]) -> None:
        self._file = FOLDER / f"{name}.jsonl"
        self._keys = keys
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.rows: list[dict[str, object]] = [json.loads(line) for line in lines]

    def has(self, **key: object) -> bool:
        return any(all(row[name] == key[name] for name in self._keys) for row in self.rows)

    def add(self, **row: object) -> None:
        self.rows.append(row)
        FOLDER.mkdir(exist_ok=True)
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def machine() -> str:
    """One line on where the figures come from."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return (
        f"{model}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, Python {platform.python_version()}"
    )


def markdown(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
