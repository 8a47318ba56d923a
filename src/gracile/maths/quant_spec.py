"""What integers a tensor is stored in: bits, sign, zero point, and how many values share a scale."""

import re
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from gracile.errors import InputError

# Formats of weights that are methods of `gracile.compress`; activations are uint8 then.  Files have integers of these
# widths.
IntegerMethod: TypeAlias = Literal["int8", "int4"]
INTEGERS: tuple[IntegerMethod, ...] = get_args(IntegerMethod)
_NAME = re.compile(r"(u?)int([0-9]+)")


class _Granularity(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PerTensor(_Granularity):
    """One scale for the whole tensor."""

    per: Literal["tensor"] = "tensor"


class PerChannel(_Granularity):
    """One scale for each index along an axis; negative axes count from the end."""

    per: Literal["channel"] = "channel"
    axis: int = 0


class PerBlock(_Granularity):
    """One scale for each ``size`` neighbours along an axis, and for each index of the other axes, as in ONNX.

    The last block is smaller where the size does not divide the axis.
    """

    per: Literal["block"] = "block"
    axis: int = -1
    size: PositiveInt


Granularity: TypeAlias = Annotated[PerTensor | PerChannel | PerBlock, Field(discriminator="per")]


class QuantSpec(BaseModel):
    """An integer format: real = (q - zero_point) * scale, with q in [qmin, qmax], as in ONNX.

    One signed, symmetric bit ("int1") is binary: q is -1 or 1, the sign of the value, with 1 at zero; files hold it in
    the next wider type.

    Immutable; compares by value; `model_dump_json` writes it and `model_validate_json` reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: int = Field(ge=1, le=16)
    signed: bool = True
    # The zero point stands in the middle: at 0, or unsigned at half of the levels.
    symmetric: bool = True
    granularity: Granularity = PerTensor()
    # Leaves the lowest level out, so that signed levels are as many above zero as below: -127 to 127.
    narrow: bool = False
    # Leaves one bit unused.  The 8-bit kernels of x86 without VNNI add two products in 16 bits, which overflow with
    # 8 bits on both sides, and do not with 7 bits on one.
    reduce_range: bool = False

    def model_post_init(self, _context: Any, /) -> None:
        """Raises ValueError (InputError where `quant_spec` made it) if no two levels are left."""
        if self.qmax <= self.qmin or (self.bits == 1 and (self.narrow or self.reduce_range)):
            raise ValueError(f"{self.bits} bits with narrow={self.narrow} and reduce_range={self.reduce_range} "
                             "leave a single level; take more bits")  # fmt: skip
        if self.signed and self.symmetric and self.qmax == 0:
            raise ValueError("2 bits with reduce_range=True have the levels -1 and 0, which are not symmetric; take 3 "
                             "bits, or symmetric=False")  # fmt: skip

    @property
    def binary(self) -> bool:
        """Whether -1 and 1 are the only levels."""
        return self.bits == 1 and self.signed and self.symmetric

    @property
    def qmin(self) -> int:
        """The lowest level."""
        if self.binary:
            return -1
        lowest = -(1 << (self._used - 1)) if self.signed else 0
        return lowest + self.narrow

    @property
    def qmax(self) -> int:
        """The highest level."""
        if self.binary:
            return 1
        return (1 << (self._used - self.signed)) - 1

    @property
    def _used(self) -> int:
        return self.bits - self.reduce_range

    @property
    def levels(self) -> int:
        return 2 if self.binary else self.qmax - self.qmin + 1

    @property
    def stored_bits(self) -> int:
        """The width of the integers that files hold: ONNX has types of 4, 8 and 16 bits."""
        return next(width for width in (4, 8, 16) if self.bits <= width)

    @property
    def middle(self) -> int:
        """The zero point where ``symmetric``."""
        return 0 if self.signed else 1 << (self._used - 1)

    @property
    def name(self) -> str:
        """The short name: "int8", "uint4"."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    def __str__(self) -> str:
        grain = self.granularity
        if isinstance(grain, PerBlock):
            shared = f"per block of {grain.size} along axis {grain.axis}"
        else:
            shared = f"per channel (axis {grain.axis})" if isinstance(grain, PerChannel) else "per tensor"
        extra = ", narrow" * self.narrow + ", reduced range" * self.reduce_range
        kind = "binary" if self.binary else "symmetric" if self.symmetric else "affine"
        return f"{self.name} {kind} {shared}{extra}"


def quant_spec(value: "str | QuantSpec", **defaults: Any) -> QuantSpec:
    """A spec from a short name, "int8" or "uint4", with fields of `QuantSpec` in ``defaults``; a spec stays as it is.

    Signed names are symmetric and unsigned ones affine, unless ``defaults`` says otherwise.

    Raises:
        InputError: the name is none, or the fields do not go together.
    """
    if isinstance(value, QuantSpec):
        return value
    match = _NAME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InputError(
            f"{value!r} is no integer format; give a name such as 'int8', 'uint8' or 'int4', or a QuantSpec"
        )
    signed = not match[1]
    try:
        return QuantSpec(**{"bits": int(match[2]), "signed": signed, "symmetric": signed} | defaults)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{value!r} is no integer format: {where + ': ' if where else ''}{first['msg']}") from error
