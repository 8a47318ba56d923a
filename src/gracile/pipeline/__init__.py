"""The whole job, end to end."""

from gracile.pipeline.job import Result, compress

__all__ = ["Result", "compress"]
