"""gracile makes trained PyTorch models smaller and faster, and proves what it did."""

from importlib.metadata import version as _version

from gracile import lowrank, prune, quant
from gracile.channels import ChannelGroups
from gracile.cost import Cost, profile
from gracile.errors import GracileError
from gracile.export.checkpoint import load
from gracile.graph import Graph, capture
from gracile.pipeline import Result, compress
from gracile.plan import Plan
from gracile.prune.masks import mask
from gracile.prune.planning import channel_groups
from gracile.quant.method import quantize
from gracile.recipe import Search, Target
from gracile.report import Report
from gracile.surgery import applied_plan, apply

__version__ = _version("gracile")

__all__ = [
    "ChannelGroups",
    "Cost",
    "GracileError",
    "Graph",
    "Plan",
    "Report",
    "Result",
    "Search",
    "Target",
    "applied_plan",
    "apply",
    "capture",
    "channel_groups",
    "compress",
    "load",
    "lowrank",
    "mask",
    "profile",
    "prune",
    "quant",
    "quantize",
]
