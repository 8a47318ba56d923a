"""Integer formats."""

import pytest

from gracile.errors import InputError
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec, quant_spec


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        ({"bits": 8}, (-128, 127)),
        ({"bits": 8, "narrow": True}, (-127, 127)),
        ({"bits": 8, "signed": False}, (0, 255)),
        ({"bits": 8, "signed": False, "reduce_range": True}, (0, 127)),
        ({"bits": 8, "reduce_range": True}, (-64, 63)),
        ({"bits": 8, "reduce_range": True, "narrow": True}, (-63, 63)),
        ({"bits": 16}, (-32768, 32767)),
        ({"bits": 2, "narrow": True}, (-1, 1)),
        ({"bits": 1, "signed": False, "symmetric": False}, (0, 1)),
    ],
)
def test_levels(fields: dict[str, int], levels: tuple[int, int]) -> None:
    spec = QuantSpec(**fields)
    assert (spec.qmin, spec.qmax) == levels
    assert spec.levels == levels[1] - levels[0] + 1


def test_names() -> None:
    assert quant_spec("int4") == QuantSpec(bits=4)
    assert quant_spec("uint8") == QuantSpec(bits=8, signed=False, symmetric=False)
    spec = quant_spec("int4", granularity=PerBlock(size=32))
    assert quant_spec(spec) is spec
    assert str(spec) == "int4 symmetric per block of 32 along axis -1"
    assert str(quant_spec("uint8", reduce_range=True)) == "uint8 affine per tensor, reduced range"
    assert quant_spec("uint4", symmetric=True).middle == 8


def test_one_signed_bit_is_binary() -> None:
    spec = quant_spec("int1")
    assert (spec.qmin, spec.qmax, spec.levels, spec.stored_bits) == (-1, 1, 2, 4)
    assert spec.binary
    assert str(spec) == "int1 binary per tensor"
    assert not quant_spec("uint1").binary
    assert not quant_spec("int1", symmetric=False).binary
    assert not quant_spec("int2", narrow=True).binary


def test_json_round_trip() -> None:
    for spec in (quant_spec("int1"), quant_spec("int8", granularity=PerChannel(axis=1)), quant_spec("uint3")):
        assert QuantSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("value", "fields", "message"),
    [
        ("int17", {}, "less than or equal to 16"),
        ("int0", {}, "greater than or equal to 1"),
        ("float8", {}, "no integer format; give a name such as 'int8'"),
        (8, {}, "8 is no integer format"),
        ("int2", {"reduce_range": True}, "not symmetric"),
        ("int1", {"narrow": True}, "a single level"),
        ("int1", {"reduce_range": True}, "a single level"),
        ("uint1", {"narrow": True}, "a single level"),
        ("int8", {"granularity": {"per": "block", "size": 0}}, "granularity.block.size"),
        ("int8", {"grain": 1}, "grain: Extra inputs"),
    ],
)
def test_what_is_no_format_is_named(value: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quant_spec(value, **fields)
