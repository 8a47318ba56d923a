"""Training under a recipe, in the user's own loop: `prepare` makes a `Run` of the recipe's parts."""

from gracile.session.distilling import Distillation
from gracile.session.part import Part, PartSpec
from gracile.session.run import Run, prepare

__all__ = ["Distillation", "Part", "PartSpec", "Run", "prepare"]
