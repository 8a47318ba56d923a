"""gracile makes trained PyTorch models smaller and faster, and proves what it did."""

from importlib.metadata import version as _version

from gracile import export, lowrank, prune, quant, train
from gracile.auto_options import Auto
from gracile.channels import ChannelGroups
from gracile.cost import Cost, profile
from gracile.errors import GracileError
from gracile.export.checkpoint import load
from gracile.graph import Graph, capture
from gracile.latency import benchmark, layer_latencies
from gracile.maths.schedule import Schedule
from gracile.own_metric import register_metric
from gracile.pipeline import Iterated, Result, compress, prune_iteratively, register_method
from gracile.plan import Plan
from gracile.prune.masks import mask
from gracile.prune.planning import channel_groups
from gracile.quant.method import quantize
from gracile.quant.training import QuantizedTraining
from gracile.recipe import Search, Target
from gracile.report import Report
from gracile.search.select import register_search
from gracile.search_options import AMC, Annealing, NetAdapt, Sensitivity
from gracile.session import ADMM, Distillation, Movement, Pruning, Slim, prepare
from gracile.surgery import applied_plan, apply
from gracile.timings import LayerLatencies, Timings

__version__ = _version("gracile")

__all__ = [
    "ADMM",
    "AMC",
    "Annealing",
    "Auto",
    "ChannelGroups",
    "Cost",
    "Distillation",
    "GracileError",
    "Graph",
    "Iterated",
    "LayerLatencies",
    "Movement",
    "NetAdapt",
    "Plan",
    "Pruning",
    "QuantizedTraining",
    "Report",
    "Result",
    "Schedule",
    "Search",
    "Sensitivity",
    "Slim",
    "Target",
    "Timings",
    "applied_plan",
    "apply",
    "benchmark",
    "capture",
    "channel_groups",
    "compress",
    "export",
    "layer_latencies",
    "load",
    "lowrank",
    "mask",
    "prepare",
    "profile",
    "prune",
    "prune_iteratively",
    "quant",
    "quantize",
    "register_method",
    "register_metric",
    "register_search",
    "train",
]
