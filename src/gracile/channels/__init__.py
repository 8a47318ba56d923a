"""Which channels of a model must be cut together, found by labels that travel through the captured program.

Every index of every axis of every parameter and buffer gets an integer label.  Labels follow the tensors through
the program (``fields.py``, ``rules_*.py``), arithmetic ties them (``meeting.py``, ``ties.py``), and what is connected
in the end goes together (``groups.py``).  Whatever has no rule is frozen, with the reason.
"""

from gracile.channels.axes import axis_components
from gracile.channels.engine import channel_groups, known_operators
from gracile.channels.fields import Value
from gracile.channels.groups import ChannelGroup, ChannelGroups, Member
from gracile.channels.resize import Demand, Difference, after_cutting, demands, fitting, kept_groups, same_program
from gracile.channels.ties import Grouped, Heads
from gracile.channels.walk import NormSite, operator

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "Demand",
    "Difference",
    "Grouped",
    "Heads",
    "Member",
    "NormSite",
    "Value",
    "after_cutting",
    "axis_components",
    "channel_groups",
    "demands",
    "fitting",
    "kept_groups",
    "known_operators",
    "operator",
    "same_program",
]
