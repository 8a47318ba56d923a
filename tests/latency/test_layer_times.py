import pytest
import torch
from nets import SmallNet, images, trained_like
from support.optional import optional
from torch.nn import functional as F

from gracile.cost import price, resized
from gracile.errors import InputError
from gracile.graph import capture
from gracile.latency import LatencyPrice, LayerTimes
from gracile.latency.layers import between
from gracile.latency.single import _eagerly, _in_onnxruntime, seconds_of
from gracile.maths.factorize import LayerShape
from gracile.store import Store

optional("onnx")
optional("onnxruntime")

CONV = LayerShape(
    inputs=16, outputs=32, kernel=(3, 3), stride=(2, 1), dilation=(1, 1), padding=((1, 1), (1, 1))
)  # fmt: skip


def by_macs(shape, rows, size, runtime, threads):
    """A machine that takes a nanosecond a multiplication, and 1000 more for a call."""
    return 1e-9 * (rows * shape.macs(size) + 1000)


def times(store=None, **options) -> LayerTimes:
    return LayerTimes("eager", 1, store or Store(None), **{"measure": by_macs, **options})


def operation(shape: LayerShape, rows: int = 2, size: tuple[int, ...] = (8, 8)):
    class One(torch.nn.Module):
        def forward(self, x):
            return F.conv2d(
                x, torch.zeros(shape.weight), stride=shape.stride, padding=1, groups=shape.groups
            )  # fmt: skip

    return price(capture(One(), torch.zeros(rows, shape.inputs, *size))).operations[0]


def test_between_measured_shares_times_are_linear():
    assert between(0.5, lambda share: 8 * share) == 4
    assert between(0.375, lambda share: 8 * share**2) == pytest.approx((0.5 + 2) / 2)
    # Nothing is promised below what was measured.
    assert between(0.01, lambda share: 8 * share) == 1


def test_a_layer_is_measured_once_and_kept_in_the_store(tmp_path):
    whole = operation(CONV)
    with Store(tmp_path / "x.db") as store:
        first = times(store)
        curve = first.curve(whole)
        half = resized(whole, LayerShape(**{**_fields(CONV), "inputs": 8, "outputs": 24}))
        # Bilinear in the widths where the true cost is: exact.
        assert curve(half) == pytest.approx(by_macs(half.shape, 2, (8, 8), "", 1))
        assert first.measured == 2
        curve(half)
        assert first.measured == 2
    with Store(tmp_path / "x.db") as store:
        again = times(store)
        assert again.known == 2
        assert again.curve(whole)(half) == curve(half)
        assert again.measured == 0
        assert times(store).known == LayerTimes("eager", 1, store).known
        assert LayerTimes("eager", 2, store).known == 0


def _fields(shape: LayerShape) -> dict:
    return {name: getattr(shape, name) for name in LayerShape.__dataclass_fields__}


@pytest.mark.parametrize(("groups", "outputs"), [(16, 16), (4, 32)])
def test_layers_of_groups_shrink_with_their_outputs(groups, outputs):
    shape = LayerShape(**{**_fields(CONV), "groups": groups, "outputs": outputs})
    seen = []

    def measure(shape, *rest):
        seen.append(shape)
        return by_macs(shape, *rest)

    curve = times(measure=measure).curve(operation(shape))
    narrow = LayerShape(**{**_fields(shape), "inputs": 8, "outputs": outputs // 2,
                           "groups": 8 if groups == 16 else 4})  # fmt: skip
    assert curve(resized(operation(shape), narrow)) > 0
    assert all(s.inputs % s.groups == 0 and s.outputs % s.groups == 0 for s in seen)
    assert seen[0] == narrow


def test_the_table_is_brought_to_what_the_whole_takes():
    torch.manual_seed(0)
    model = trained_like(SmallNet())
    graph = capture(model, images())
    operations = price(graph).operations
    table = sum(by_macs(o.shape, o.rows, o.size, "", 1) for o in operations)
    slower = LatencyPrice(times(), graph, 2 * table)
    assert slower(operations) == pytest.approx(2e9 * table, rel=1e-6) == slower.total
    faster = LatencyPrice(times(), graph, table / 2)
    assert faster(operations) == pytest.approx(5e8 * table, rel=1e-6)
    wide = next(o for o in operations if o.module == "wide")
    assert faster.layer([wide]) == pytest.approx(5e8 * by_macs(wide.shape, wide.rows, wide.size, "", 1), rel=1e-6)
    narrow = [resized(o, LayerShape(**{**_fields(o.shape), "outputs": 12})) if o is wide else o for o in operations]
    assert faster(narrow) < faster(operations)
    assert slower(narrow) < slower(operations)


@pytest.mark.parametrize(
    ("shape", "rows", "size"),
    [
        (CONV, 2, (8, 7)),
        (
            LayerShape(inputs=6, outputs=6, kernel=(3,), stride=(1,), dilation=(2,), padding=((2, 1),), groups=6),
            2,
            (9,),
        ),
        (LayerShape(inputs=5, outputs=7), 3, ()),
    ],
)
def test_single_layers_compute_the_same_in_both_runtimes(shape, rows, size):
    inside, eager = _in_onnxruntime(shape, rows, size, 1)()[0], _eagerly(shape, rows, size)()
    assert eager.shape == (rows, shape.outputs, *shape.output_size(size))
    assert torch.allclose(torch.from_numpy(inside), eager, atol=1e-5)


def test_a_real_measurement_is_a_time():
    assert 0 < seconds_of(LayerShape(inputs=5, outputs=7), 3, (), "onnxruntime", 1) < 1


def test_refusals():
    with pytest.raises(InputError, match="runtime is 'tvm'"):
        LayerTimes("tvm", 1, Store(None))
