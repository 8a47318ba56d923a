"""From what attempts measured to what the next one should expect."""

import math
from collections.abc import Sequence

from gracile.timings import NEAR, Attempt

# Where attempts aim, within what is near enough.
AIM = 0.975


def near_enough(measured: float, asked: float) -> bool:
    """Whether a time is within the bound, and not far below it."""
    return (1 - NEAR) * asked <= measured <= asked


def nearness(measured: float, asked: float) -> tuple[bool, float]:
    """Sorts what is within the bound before what is not, and each by its distance."""
    return measured > asked, abs(measured - asked)


def next_guess(attempts: Sequence[Attempt], asked: float) -> float:
    """What to expect of the next attempt, so that it measures just below ``asked``."""
    aim = AIM * asked
    below = [a for a in attempts if a.measured <= aim]
    above = [a for a in attempts if a.measured > aim]
    if not below or not above:
        last = attempts[-1]
        step = last.expected * (aim / last.measured) ** (1 / _response(attempts))
        # Where a step is tiny the allocation would stay the same.
        return min(1.0, step if abs(step / last.expected - 1) > 0.01 else last.expected * (0.97 if above else 1.03))
    low = max(below, key=lambda a: a.expected)
    high = min(above, key=lambda a: a.expected)
    if high.expected <= low.expected:
        return (low.expected + high.expected) / 2
    part = (aim - low.measured) / (high.measured - low.measured)
    if len(attempts) > 2 and (attempts[-1].measured > aim) == (attempts[-2].measured > aim):
        # Times jump: a line through the bracket's ends would creep along one of them.
        part = 0.5
    # Not at the ends of the bracket: times are no line.
    return low.expected + min(0.85, max(0.15, part)) * (high.expected - low.expected)


def _response(attempts: Sequence[Attempt]) -> float:
    """By what power of the expected time the measured one changed last: from a quarter, where it hardly did, to 1."""
    if len(attempts) < 2 or attempts[-2].expected == attempts[-1].expected:
        return 1.0
    before, last = attempts[-2:]
    power = math.log(last.measured / before.measured) / math.log(last.expected / before.expected)
    return min(1.0, max(0.25, power))
