"""The whole job, end to end."""

from gracile.pipeline.iterative import Iterated, prune_iteratively
from gracile.pipeline.job import Result, compress
from gracile.pipeline.own_method import register_method

__all__ = ["Iterated", "Result", "compress", "prune_iteratively", "register_method"]
