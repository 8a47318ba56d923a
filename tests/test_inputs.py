"""Example inputs, calibration batches in their form, and calibration that repeats."""

import hashlib
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gracile.errors import InputError
from gracile.inputs import Calibration, Inputs, batches_of, update_digest

Pair = namedtuple("Pair", "left right")
x, y = torch.arange(6.0).reshape(2, 3), torch.ones(2, 4)
labels = torch.tensor([0, 1])


def same(found: Inputs, *args: Any, **kwargs: Any) -> bool:
    """Whether the arguments are these very tensors and values, in this order."""
    return (
        len(found.args) == len(args)
        and all(left is right for left, right in zip(found.args, args, strict=True))
        and list(found.kwargs) == list(kwargs)
        and all(found.kwargs[name] is value for name, value in kwargs.items())
    )


# Example inputs


def test_tensors_tuples_lists_and_dictionaries_are_inputs() -> None:
    assert same(Inputs.of(x), x)
    assert same(Inputs.of((x, y)), x, y)
    assert same(Inputs.of([x, 3]), x, 3)
    assert same(Inputs.of({"a": x, "b": None}), a=x, b=None)
    made = Inputs.of(x)
    assert Inputs.of(made) is made


@pytest.mark.parametrize("example", ["1,3,224,224", 3, None, torch.nn.ReLU()])
def test_other_types_are_refused_by_name(example: Any) -> None:
    with pytest.raises(InputError, match=f"example_inputs is a {type(example).__name__}; give a tensor, a tuple"):
        Inputs.of(example)


@pytest.mark.parametrize("example", [(), {}, (1, "a"), {"a": [None]}])
def test_inputs_without_a_tensor_are_refused(example: Any) -> None:
    with pytest.raises(InputError, match="example_inputs holds no tensor"):
        Inputs.of(example)


def test_tensors_are_found_in_nested_inputs() -> None:
    tensors = Inputs.of(([x, {"k": y}], 3)).tensors
    assert [id(tensor) for tensor in tensors] == [id(x), id(y)]


def test_inputs_call_a_model() -> None:
    assert Inputs.of((x, y)).call(lambda a, b: (b, a)) == (y, x)  # type: ignore[arg-type]
    assert torch.equal(Inputs.of({"input": x}).call(nn.ReLU()), x)


def test_batch_size_is_the_leading_size_that_all_tensors_share() -> None:
    assert Inputs.of((x, y)).batch_size == 2
    assert Inputs.of((x, torch.ones(3))).batch_size is None
    assert Inputs.of((x, torch.tensor(2.0))).batch_size is None
    assert Inputs.of(torch.tensor(2.0)).batch_size is None


def test_repeated_inputs_hold_the_examples_several_times() -> None:
    repeated = Inputs.of((x, [y, 5])).repeated(2)
    assert torch.equal(repeated.args[0], torch.cat([x, x]))
    assert torch.equal(repeated.args[1][0], torch.cat([y, y]))
    assert repeated.args[1][1] == 5


def test_signatures_tell_shapes_dtypes_and_other_values_apart() -> None:
    signature = Inputs.of((x, True, None)).signature
    assert Inputs.of((x + 1, True, None)).signature == signature
    hash(signature)
    for other in ((x[:1], True, None), (x.double(), True, None), (x, False, None), (x, 1, None), (x, None, True)):
        assert Inputs.of(other).signature != signature


# Batches in the form of the example


@pytest.mark.parametrize("batch", [x, (x,), [x], (x, labels), [x, labels], ((x,), labels), ([x], labels)])
def test_batches_of_a_single_input_lose_their_labels(batch: Any) -> None:
    assert same(Inputs.of(y).like(batch), x)


@pytest.mark.parametrize("batch", [(x, y), [x, y], (x, y, labels), ((x, y), labels), [[x, y], labels]])
def test_batches_of_two_inputs_lose_their_labels(batch: Any) -> None:
    assert same(Inputs.of((y, x)).like(batch), x, y)


@pytest.mark.parametrize("batch", [{"b": y, "a": x}, {"label": labels, "b": y, "a": x}, ({"b": y, "a": x}, labels)])
def test_keyword_batches_come_in_the_order_of_the_example(batch: Any) -> None:
    assert same(Inputs.of({"a": y, "b": x}).like(batch), a=x, b=y)


def test_nested_batches_take_the_containers_of_the_example() -> None:
    example = Inputs.of((OrderedDict(a=y, b=(x, 1)), Pair(x, y)))
    found = example.like(({"b": [y, 2], "c": labels, "a": x}, [y, x], labels))
    first, second = found.args
    assert type(first) is OrderedDict
    assert list(first) == ["a", "b"]
    assert first["a"] is x
    assert first["b"] == (y, 2)
    assert type(second) is Pair
    assert second == (y, x)


def test_an_input_that_is_a_list_or_dictionary_may_come_alone_or_with_labels() -> None:
    listed = Inputs.of(([y, y],))
    assert listed.like(([x, x], labels)).args[0][0] is x
    keyed = Inputs.of(({"a": y},))
    assert keyed.like({"a": x}).args[0]["a"] is x
    assert keyed.like(({"a": x}, labels)).args[0]["a"] is x
    assert keyed.like({"a": x}).kwargs == {}


def test_inputs_pass_as_they_are() -> None:
    batch = Inputs((x,), {"b": y})
    assert Inputs.of(y).like(batch) is batch


def test_batches_go_to_the_device_of_the_example() -> None:
    example = Inputs.of((torch.empty(2, 3, device="meta"), {"k": torch.empty(2, 4, device="meta")}))
    found = example.like((x, {"k": y}, labels))
    assert {tensor.device.type for tensor in found.tensors} == {"meta"}


@pytest.mark.parametrize(
    ("example", "batch", "message"),
    [
        ((x, y), x, "has 1 elements, the model takes 2 inputs"),
        ((x, y), [x], "has 1 elements, the model takes 2 inputs"),
        ((x, y), ((x,), labels), "has 1 elements, the model takes 2 inputs"),
        (x, {"input": x}, r"is a dictionary of \['input'\], but the example inputs are positional"),
        ({"a": x, "b": y}, {"a": x}, r"lacks the keyword inputs \['b'\]; the example inputs have \['a', 'b'\]"),
        ({"a": x}, (x, labels), r"lacks the keyword inputs \['a'\]"),
        (x, "images", "a calibration batch is a str"),
        (x, None, "a calibration batch is a NoneType"),
        (x, (), "a calibration batch is a tuple"),
        (x, (3, labels), "has a int where the example inputs have a Tensor"),
        ((x, True), (x, labels), "has a Tensor where the example inputs have a bool"),
        (([x, y],), ([x], labels), "has a list of 1 where the example inputs have a list of 2"),
        (({"a": x},), ({"b": x}, labels), r"a dictionary of \['b'\] where .* a dictionary of \['a'\]"),
    ],
)
def test_batches_of_another_form_are_refused(example: Any, batch: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inputs.of(example).like(batch)


@pytest.mark.parametrize("calibration", [x, {"a": x}, "images", 5, None])
def test_what_is_no_iterable_of_batches_is_refused(calibration: Any) -> None:
    with pytest.raises(InputError, match=f"calibration is a {type(calibration).__name__}; give an iterable"):
        next(batches_of(calibration, Inputs.of(x)))


def test_calibration_without_batches_is_refused() -> None:
    used = iter([x])
    next(used)
    with pytest.raises(InputError, match="yields no batch; if it is a generator it may have been used up"):
        list(batches_of(used, Inputs.of(x)))


# Calibration


def images(calibration: Calibration) -> list[Tensor]:
    return [batch.args[0] for batch in calibration]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def shuffling() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(20.0).reshape(20, 1), torch.zeros(20)), batch_size=4, shuffle=True)


def test_one_shot_iterators_can_be_run_through_again() -> None:
    def generator() -> Iterator[tuple[Tensor, Tensor]]:
        yield x, labels
        yield x + 1, labels

    calibration = Calibration(generator(), Inputs.of(x))
    assert equal(images(calibration), [x, x + 1])
    assert equal(images(calibration), [x, x + 1])


def test_shuffling_loaders_give_the_same_batches_each_time_for_a_seed() -> None:
    example = Inputs.of(torch.zeros(4, 1))
    calibration = Calibration(shuffling(), example, seed=3)
    first = images(calibration)
    torch.rand(1)
    assert equal(images(calibration), first)
    assert equal(images(Calibration(shuffling(), example, seed=3)), first)
    assert not equal(images(Calibration(shuffling(), example, seed=4)), first)


def test_batches_do_not_depend_on_what_their_user_draws() -> None:
    def noisy() -> list[Tensor]:
        class Noise:
            def __iter__(self) -> Iterator[Tensor]:
                return (torch.rand(2, 3) for _ in range(3))

        calibration = Calibration(Noise(), Inputs.of(x))
        return [batch.args[0] for batch in calibration if draws() >= 0]

    def draws() -> float:
        return sum(torch.rand(1).item() for _ in range(rounds))

    rounds = 0
    quiet = noisy()
    rounds = 3
    assert equal(noisy(), quiet)


def test_the_random_stream_of_the_caller_goes_on_undisturbed() -> None:
    calibration = Calibration(shuffling(), Inputs.of(torch.zeros(4, 1)))
    torch.manual_seed(7)
    wanted = torch.rand(8)
    torch.manual_seed(7)
    drawn = [torch.rand(1) for _ in calibration]
    # Two at a time, and one that is given up half way.
    drawn += [torch.rand(1) for _ in zip(calibration, range(1), strict=False)]
    interleaved = zip(calibration, Calibration(shuffling(), Inputs.of(torch.zeros(4, 1)), seed=1), strict=True)
    drawn += [torch.rand(1) for _, _ in zip(interleaved, range(2), strict=False)]
    assert torch.equal(torch.cat(drawn), wanted)


def test_the_random_stream_is_given_back_after_an_error() -> None:
    class Failing:
        def __iter__(self) -> Iterator[Tensor]:
            torch.rand(5)
            raise ZeroDivisionError
            yield

    torch.manual_seed(7)
    wanted = torch.rand(2)
    torch.manual_seed(7)
    with pytest.raises(ZeroDivisionError):
        list(Calibration(Failing(), Inputs.of(x)))
    assert torch.equal(torch.rand(2), wanted)


def test_fingerprint_depends_on_values_shapes_dtypes_and_order() -> None:
    def fingerprint(*batches: Tensor) -> str:
        return Calibration(list(batches), Inputs.of(x)).fingerprint

    first = fingerprint(x, x + 1)
    assert fingerprint(x.clone(), x + 1) == first
    assert Calibration([(x, labels), (x + 1, labels)], Inputs.of(x)).fingerprint == first
    others = [
        fingerprint(x + 1, x), fingerprint(x), fingerprint(x, x + 2), fingerprint(x.T, x + 1),
        fingerprint(x.double(), x + 1),
    ]  # fmt: skip
    assert len({first, *others}) == 6


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.0), torch.empty(0, 3), torch.tensor([True, False]), torch.ones(3, dtype=torch.bfloat16),
        torch.arange(6).reshape(2, 3).T, torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.complex64),
    ],
)  # fmt: skip
def test_every_kind_of_tensor_has_a_digest(tensor: Tensor) -> None:
    def digest(value: Tensor) -> str:
        running = hashlib.sha256()
        update_digest(running, value)
        return running.hexdigest()

    assert digest(tensor) == digest(tensor.detach().clone())
    assert digest(tensor) != digest(torch.zeros(5))
    if tensor.numel():
        assert digest(tensor) != digest(torch.zeros_like(tensor.detach()))


def test_a_copy_shares_nothing_and_takes_of_a_part_of_a_tensor_only_that():
    whole, notes = torch.zeros(1000, 3), []
    first = Inputs((whole[:2], {"again": whole[5:6], "notes": notes}), {})
    copied = first.copied()
    part, other = copied.args
    assert [tensor.untyped_storage().nbytes() for tensor in copied.tensors] == [24, 12]
    part += 1
    other["notes"].append(1)
    assert (float(whole.abs().max()), notes) == (0.0, [])
    # One tensor twice stays one.
    twice = Inputs((part, part), {}).copied()
    assert twice.args[0] is twice.args[1]
