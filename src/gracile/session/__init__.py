"""Training under a recipe, in the user's own loop: `prepare` makes a `Run` of the recipe's parts."""

from gracile.session.distilling import Distillation
from gracile.session.part import Part, PartSpec
from gracile.session.pruning import Pruning
from gracile.session.regularizers import ADMM, Slim
from gracile.session.run import Run, prepare
from gracile.session.scoring import Movement

__all__ = ["ADMM", "Distillation", "Movement", "Part", "PartSpec", "Pruning", "Run", "Slim", "prepare"]
