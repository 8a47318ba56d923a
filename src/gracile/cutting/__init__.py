"""From channels to remove to a Plan that runs: sizes that are baked into Python code follow the cut.

Slices alone suffice where code reads sizes from tensors.  Elsewhere a ladder is climbed, each rung verified by
running the cut model and comparing it with its oracle: integer attributes that the code reads are patched
(``patches.py``), torch's attention is replaced by gracile's, a module whose code computes what cannot be patched by
its part of the program (``programs.py``), and what then still does not fit is not cut, with the reason.
"""

from gracile.cutting.ladder import Cut, cut

__all__ = ["Cut", "cut"]
