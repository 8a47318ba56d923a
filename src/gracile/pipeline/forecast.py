"""What trials know of times: measurements of the original, from which the table of layers predicts the rest."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Measured once, before the trials."""

    # Of a call of the model that is to be compressed.
    seconds: float
    # What int8 alone leaves of the time.
    integers: float = 1.0

    def behind(self, share: float) -> "Forecast":
        """The same for a model that takes this share of the time."""
        return replace(self, seconds=share * self.seconds)
