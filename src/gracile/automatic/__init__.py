"""The search over whole pipelines: which methods, how the target is split among them, with which options."""

from gracile.automatic.space import Point, Space, Training

__all__ = ["Point", "Space", "Training"]
