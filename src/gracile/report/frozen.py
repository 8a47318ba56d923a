"""What all records of reports are."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A record that does not change, and knows all of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
