"""The whole job, end to end."""

from gracile.pipeline.iterative import Iterated, prune_iteratively
from gracile.pipeline.job import Result, compress

__all__ = ["Iterated", "Result", "compress", "prune_iteratively"]
