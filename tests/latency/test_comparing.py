import numpy as np
import pytest
import torch
from nets import SmallNet, images, trained_like
from support.optional import optional

import gracile
from gracile.errors import FileError, InputError
from gracile.export import to_onnx
from gracile.latency.comparing import by_turns, entries_of
from gracile.latency.runs import Run
from gracile.timings import Timings, settled

optional("onnx")
optional("onnxruntime")
optional("onnxscript")


class Machine:
    """A clock that only calls move: each by a time of its own, more in slow rounds."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.calls, self.order = 0.0, [0] * len(seconds), []
        self.seconds = seconds

    def call(self, place: int):
        def run() -> None:
            self.now += self.seconds[place]
            self.calls[place] += 1
            self.order.append(place)

        return run

    def clock(self) -> float:
        return self.now


def test_rounds_measure_each_entry_once_in_orders_of_the_seed():
    machine = Machine(0.004, 0.002, 0.008)
    seconds, calls = by_turns([machine.call(i) for i in range(3)], 5, warm_up=2, seed=1, clock=machine.clock)
    assert calls == 1
    assert np.allclose(seconds, [[0.004] * 5, [0.002] * 5, [0.008] * 5])
    rounds = np.array(machine.order[6:]).reshape(5, 3)
    assert machine.order[:6] == [0, 0, 1, 1, 2, 2]
    assert all(sorted(row) == [0, 1, 2] for row in rounds.tolist())
    assert len({tuple(row) for row in rounds.tolist()}) > 1
    again = Machine(0.004, 0.002, 0.008)
    by_turns([again.call(i) for i in range(3)], 5, warm_up=2, seed=1, clock=again.clock)
    assert again.order == machine.order


def test_short_calls_are_repeated_within_a_measurement():
    machine = Machine(0.0005, 0.001)
    seconds, calls = by_turns([machine.call(i) for i in range(2)], 3, warm_up=1, clock=machine.clock)
    assert calls == 4
    assert machine.calls == [1 + 3 * 4] * 2
    assert np.allclose(seconds[:, 0], [0.0005, 0.001])


def test_ratios_are_taken_within_a_round_and_quartiles_are_stated():
    # A machine that gets slower: the times spread, their ratio does not.
    first = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    entries = entries_of(["a", "b"], [Run(lambda: None, 8), Run(lambda: None, 4)], np.array([first, first / 2]))
    assert [entry.median for entry in entries] == [3.0, 1.5]
    assert (entries[0].low, entries[0].high, entries[0].spread) == (2.0, 4.0, 2.0)
    assert (entries[1].ratio, entries[1].ratio_low, entries[1].ratio_high) == (0.5, 0.5, 0.5)
    assert [entry.bytes for entry in entries] == [8, 4]


def test_where_rounds_vary_the_fastest_ones_are_compared():
    run = Run(lambda: None, 1)
    quiet = entries_of(["a", "b"], [run, run], np.array([[2.0, 2.0, 2.0, 1.9], [1.0, 1.0, 1.0, 1.0]]))
    assert settled(quiet[1], quiet[0]) == 0.5
    # Something else ran in two rounds.
    busy = entries_of(["a", "b"], [run, run], np.array([[2.0, 2.0, 2.0, 9.0], [1.0, 7.0, 3.0, 1.0]]))
    assert busy[1].ratio != 0.5
    assert settled(busy[1], busy[0]) == 0.5


def test_the_table_says_what_is_no_faster_and_what_was_disturbed():
    made = {
        "runtime": "eager",
        "version": "1",
        "threads": 1,
        "repeats": 3,
        "calls": 1,
        "machine": "m",
        "inputs": ("1",),
    }
    seconds = np.array([[2.0, 2.0, 2.0], [1.0, 1.1, 1.2], [1.9, 2.0, 2.1], [1.0, 2.0, 9.0]])
    run = Run(lambda: None, 1)
    table = Timings(entries=entries_of(["dense", "small", "same", "noisy"], [run] * 4, seconds), **made)
    same, noisy = table.notes
    assert same.startswith("note: same is not faster than dense; gracile.export.operator_times")
    assert noisy.startswith("note: noisy took 0.75 to 2.75 of the time of dense from round to round")
    assert same in str(table)


@pytest.mark.parametrize("runtime", ["onnxruntime", "eager"])
def test_the_table_says_all_that_it_depends_on(runtime, tmp_path):
    torch.manual_seed(0)
    model = trained_like(SmallNet()).train()
    small = gracile.apply(model, gracile.prune.plan(model, images(), sparsity=0.5, round_to=1))
    models = {"dense": model, "small": small}
    if runtime == "onnxruntime":
        models["file"] = to_onnx(small, images(), tmp_path / "m.onnx").path
    before = torch.get_num_threads()
    table = gracile.benchmark(models, images(), runtime=runtime, threads=2, repeats=3, warm_up=1)
    assert torch.get_num_threads() == before
    assert model.training
    assert [entry.name for entry in table.entries] == list(models)
    assert table["dense"].ratio == 1
    assert all(entry.low <= entry.median <= entry.high for entry in table.entries)
    assert table["small"].bytes < table["dense"].bytes
    text = str(table)
    for word in (runtime, table.version, "2 threads", "2x3x10x10", "3 rounds", table.machine, "time / dense"):
        assert word in text
    assert Timings.model_validate_json(table.model_dump_json()) == table
    with pytest.raises(KeyError, match="dense, small"):
        table["other"]


@pytest.mark.parametrize(
    ("models", "arguments", "error", "words"),
    [
        ({}, {}, InputError, "dictionary"),
        ({"a": 3}, {}, InputError, r"models\['a'\] is a int"),
        ({"a": torch.nn.ReLU()}, {"runtime": "tvm"}, InputError, "runtime is 'tvm'"),
        ({"a": torch.nn.ReLU()}, {"threads": 0}, InputError, "threads is 0"),
        ({"a": torch.nn.ReLU()}, {"repeats": 0}, InputError, "repeats is 0"),
        ({"a": "m.onnx"}, {"runtime": "eager"}, InputError, "runs in onnxruntime"),
        ({"a": "m.onnx"}, {}, FileError, r"m\.onnx is no file"),
        # Before the others are exported, which this one cannot be.
        ({"a": torch.nn.LazyLinear(2), "b": "m.onnx"}, {}, FileError, r"m\.onnx is no file"),
        ({"a": "m\0.onnx"}, {}, InputError, r"models\['a'\] is .*, a name that no file can have"),
    ],
)
def test_refusals(models, arguments, error, words):
    with pytest.raises(error, match=words):
        gracile.benchmark(models, torch.randn(1, 2), **arguments)


def test_an_onnx_file_of_another_batch_is_refused(tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        optional(package)
    model = trained_like(SmallNet())
    fixed = to_onnx(model, images(), tmp_path / "fixed.onnx").path
    with pytest.raises(InputError, match=r"takes .* of the shape \[2, 3, 10, 10\].*dynamic_batch=True"):
        gracile.benchmark({"file": fixed}, images()[:1], repeats=1)
    free = to_onnx(model, images(), tmp_path / "free.onnx", dynamic_batch=True).path
    assert gracile.benchmark({"file": free}, images()[:1], repeats=1).entries
