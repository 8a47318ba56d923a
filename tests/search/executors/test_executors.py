"""Workers change neither scores nor models, and one that dies costs nothing but its own evaluation."""

import faulthandler
import os
import pickle
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Client

import pytest
import torch
from support.executors_parts import DATA, MODEL, PLAIN, Dying
from support.optional import optional

import gracile
from gracile.errors import EvaluationError, InputError, MissingExtraError
from gracile.search import executors
from gracile.search.executors import processes
from gracile.search.executors.packing import packed
from gracile.search.executors.processes import Processes
from gracile.search.executors.sending import Sender

SEARCH = gracile.Search(kind="exact", candidates=3)


def job(**options):
    arguments = {"evaluate": PLAIN, "target": gracile.Target(macs=0.6), "search": SEARCH, "method": "spatial_svd"}
    return gracile.compress(MODEL, DATA[:1], **{**arguments, **options})


@pytest.fixture(scope="module")
def alone():
    return job()


def assert_same(first, second):
    assert first.plan == second.plan
    assert first.report.dictionary == second.report.dictionary
    assert first.report.score_after == second.report.score_after
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_give_what_one_gives(alone):
    assert_same(job(n_jobs=2), alone)


@pytest.mark.parametrize(
    ("method", "search"),
    [
        ("channel_pruning", gracile.Search(candidates=2)),
        ("prune", gracile.Search(kind="netadapt", options=gracile.NetAdapt(step=0.3))),
    ],
)
def test_joint_evaluations_run_in_workers_too(method, search):
    options = {"method": method, "round_to": 4, "calibration": [DATA], "search": search}
    assert_same(job(n_jobs=2, **options), job(**options))


def test_a_worker_that_dies_costs_nothing(alone, tmp_path):
    assert_same(job(evaluate_search=Dying(tmp_path, 1), n_jobs=2), alone)
    assert len(list(tmp_path.iterdir())) == 1


def test_workers_that_always_die_are_given_up_and_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"a worker process died 3 times in a row .* not done: the model with "):
        job(evaluate_search=Dying(tmp_path, 1000), n_jobs=2)


@pytest.fixture
def no_hang():
    """Ends the whole run with all stacks where a test takes five minutes."""
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


class Heavy:
    """Far more bytes than a pipe holds."""

    def __init__(self):
        self.ballast = bytes(2**22)

    def __call__(self, model):
        return PLAIN(model)


@pytest.mark.usefixtures("no_hang")
def test_workers_that_die_while_they_start_are_given_up_and_block_nothing(tmp_path, monkeypatch):
    # Imported by every interpreter that starts, long before it reads what its parent has for it.
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setattr(processes, "_ENVIRONMENT", {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(EvaluationError, match=r"a worker process died 3 times in a row .* not done: the model with "):
        job(evaluate_search=Heavy(), n_jobs=2)


class Unopened(Heavy):
    """Ends every process but this one that unpacks it."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.usefixtures("no_hang")
def test_workers_that_die_of_the_work_are_given_up():
    with pytest.raises(EvaluationError, match=r"a worker process died 3 times in a row"):
        job(evaluate_search=Unopened(), n_jobs=2)


def test_only_what_was_sent_is_taken():
    sender = Sender(b"work" * 2**20)
    try:
        assert sender.parcel.fetched() == b"work" * 2**20
        # One that goes away in the middle.
        with Client(sender.parcel.address):
            pass
        assert sender.parcel.fetched() == b"work" * 2**20
        with pytest.raises(EvaluationError, match="is not the work that was sent"):
            replace(sender.parcel, digest="0" * 64).fetched()
    finally:
        sender.close()
    with pytest.raises(EvaluationError, match="the work could not be fetched from"):
        sender.parcel.fetched()


def test_errors_of_the_function_come_through():
    def fails(model):
        if model is not MODEL and "0.weight" in str(list(model.state_dict())):
            raise KeyError("no such label")
        return PLAIN(model)

    with pytest.raises(EvaluationError, match=r"fails failed on the model with .*: KeyError: 'no such label'"):
        job(evaluate_search=fails, n_jobs=2)


def test_what_cannot_be_sent_is_refused():
    lock = threading.Lock()

    def locked(model):
        with lock:
            return PLAIN(model)

    with pytest.raises(InputError, match=r"cannot be sent to another process.*n_jobs=1"):
        job(evaluate_search=locked, n_jobs=2)


def unpacked(work):
    return pickle.loads(pickle.loads(packed(work))[2])


class Growing:
    """Keeps 200 MB more with each answer, which is the process that gave it."""

    def __init__(self):
        self.kept = []

    def __call__(self, asked):
        self.kept.append(torch.ones(50_000_000))
        time.sleep(1.1)
        return os.getpid()


def test_a_worker_that_keeps_much_is_not_ended():
    """Loky looks every second, and knows the memory from psutil."""
    pytest.importorskip("psutil", reason="without it loky does not look")
    with Processes(Growing(), 1) as pool:
        answers = dict(pool.scores(range(4)))
    assert len(set(answers.values())) == 1


def test_of_large_tensors_only_what_is_used_is_sent():
    large, wide = torch.randn(1000, 1000), torch.randn(1000, 500)
    linear = torch.nn.Linear(4, 4)
    linear.weight = torch.nn.Parameter(large[500:504, 4:8])
    work = {
        "example": large[3:4], "data": large[3:7], "columns": wide[4:8, ::2], "none": wide[:0], "model": linear,
        "image": torch.randn(200, 3, 8, 8)[:1].to(memory_format=torch.channels_last),
    }  # fmt: skip
    # Of the first, what lies between the data and the weight.
    assert 4 * 500 * 1000 < len(packed(work)) < 4 * 505 * 1000
    found = unpacked(work)
    for name in work.keys() - {"model"}:
        assert torch.equal(found[name], work[name])
        assert found[name].stride() == work[name].stride()
    assert torch.equal(found["model"].weight, linear.weight)
    assert found["model"].weight.requires_grad
    # The first row of the one is that of the other, and the data themselves stayed as they were.
    found["example"][:] = 1.0
    assert found["data"][0].eq(1).all()
    assert not large[3].eq(1).any()


def test_parts_of_memory_that_serve_several_purposes_are_sent_with_all_of_it():
    large = torch.arange(1000, dtype=torch.float32)
    learned = torch.randn(100)[:3].requires_grad_()
    work = {"floats": large[3:5], "integers": large.view(torch.int32)[10:12], "learned": learned}
    found = unpacked(work)
    assert all(torch.equal(found[name], value) for name, value in work.items())
    assert found["learned"].requires_grad


@pytest.mark.parametrize(
    ("options", "message"), [({"n_jobs": 0}, "n_jobs is 0"), ({"executor": "threads"}, "executor is 'threads'")]
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        job(**options)


def test_without_ray_the_pip_line_is_given(monkeypatch):
    def missing(name, *_):
        raise ModuleNotFoundError("no", name="ray")

    monkeypatch.setattr("gracile.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"executor='ray' needs the package ray.*'gracile\[ray\]'"):
        executors.require_packages("ray")


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_with_one_of_two_workers_killed(alone, tmp_path):
    ray = optional("ray")
    assert_same(job(evaluate_search=Dying(tmp_path, 1), n_jobs=2, executor="ray"), alone)
    assert len(list(tmp_path.iterdir())) == 1
    # What was started for the job has ended with it.
    assert not ray.is_initialized()


@pytest.mark.filterwarnings("ignore")
def test_trials_of_an_automatic_search_run_on_ray_with_one_of_two_workers_killed(tmp_path):
    optional("optuna")
    optional("ray")
    auto = gracile.Auto(trials=5, methods=("spatial_svd", "prune"), criteria=("l2",), scopes=("layer",), shares=(1.0,))
    options = {"method": "auto", "auto": auto, "search": "tar", "round_to": 1, "calibration": [DATA]}
    here = job(**options)
    there = job(evaluate_search=Dying(tmp_path, 1), n_jobs=2, executor="ray", **options)
    assert len(list(tmp_path.iterdir())) == 1
    assert there.plan == here.plan
    told = [[trial.model_dump(exclude={"seconds"}) for trial in result.trials] for result in (here, there)]
    assert told[0] == told[1]
    assert len(told[0]) == 5
