"""A job that is killed goes on where it was, and ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
JOB, AUTO = TESTS / "support" / "killed_job.py", TESTS / "support" / "killed_auto_job.py"


def start(store, log, job=JOB):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    return subprocess.Popen([sys.executable, job, store, log], stdout=subprocess.PIPE, env=environment, text=True)


def evaluations(log):
    return log.read_text().count("\n") if log.exists() else 0


def kill_after(process, log, count, pause):
    """SIGKILL once ``count`` evaluations have begun and ``pause`` seconds have passed; False where it ended before."""
    while process.poll() is None and evaluations(log) < count:
        time.sleep(0.002)
    time.sleep(pause)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_a_job_killed_at_random_points_ends_as_an_unbroken_one(tmp_path):
    whole = start(tmp_path / "whole.db", tmp_path / "whole.log")
    expected = whole.communicate()[0]
    assert whole.returncode == 0
    total = evaluations(tmp_path / "whole.log")
    generator = random.Random(0)
    path, done = tmp_path / "killed.db", 0
    for attempt in range(3):
        log = tmp_path / f"{attempt}.log"
        process = start(path, log)
        # Between, within and after evaluations, while the store is written, too.
        assert kill_after(process, log, generator.randint(2, total // 3), generator.uniform(0, 0.01))
        done += evaluations(log)
    last = start(path, tmp_path / "last.log")
    assert last.communicate()[0] == expected
    assert last.returncode == 0
    # Each start scores the original anew, and each kill loses at most the evaluation under way.
    assert done + evaluations(tmp_path / "last.log") <= total + 3 * 2


def test_an_automatic_search_killed_at_random_points_ends_as_an_unbroken_one(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra auto")
    whole = start(tmp_path / "whole.db", tmp_path / "whole.log", AUTO)
    expected = whole.communicate()[0]
    assert whole.returncode == 0
    total = evaluations(tmp_path / "whole.log")
    generator = random.Random(1)
    path, done = tmp_path / "killed.db", 0
    for attempt in range(2):
        log = tmp_path / f"{attempt}.log"
        process = start(path, log, AUTO)
        # Within trials, and while the study is written.
        assert kill_after(process, log, generator.randint(2, total // 4), generator.uniform(0, 0.05))
        done += evaluations(log)
    last = start(path, tmp_path / "last.log", AUTO)
    assert last.communicate()[0] == expected
    assert last.returncode == 0
    # Each start scores the original anew, and each kill loses at most the trial under way, of two methods at most.
    assert done + evaluations(tmp_path / "last.log") <= total + 2 * 3
