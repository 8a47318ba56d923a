import re

import pytest

from gracile.progress import bar


def _run() -> None:
    with bar("train", 4) as progress:
        for epoch in range(4):
            progress.advance(f"epoch [{epoch}]")


def test_nothing_is_written_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _run()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_steps_time_left_and_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    _run()
    out, err = capsys.readouterr()
    assert out == ""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert re.search(r"train .* 4/4 0:00:00 left 0:00:00 epoch \[3\]", plain)


def test_steps_of_minutes_still_give_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 120))
    with bar("search", 10) as progress:
        inner = progress._progress
        monkeypatch.setattr(inner, "get_time", lambda: float(next(clock)))
        for _ in range(4):
            progress.advance()
        remaining = inner.tasks[0].time_remaining
    assert remaining is not None
    assert remaining > 600


def test_the_bar_goes_away_on_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with bar("search", 2) as progress:
            progress.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().err == ""
