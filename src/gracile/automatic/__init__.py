"""The search over whole pipelines: which methods, how the target is split among them, with which options."""

from gracile.automatic.options import AUTO, Auto
from gracile.automatic.space import Point, Space, Training

__all__ = ["AUTO", "Auto", "Point", "Space", "Training"]
