"""Numbers and tables as text."""

from functools import partial

import pytest
import torch
from rich import console

from gracile.text import count, table, told
from gracile.train import Recovery, fine_tuning


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"), (7, "7"), (999, "999"), (1000, "1 k"), (1234, "1.234 k"), (12345, "12.35 k"), (999_949, "999.9 k"),
        (999_950, "1 M"), (999_999, "1 M"), (29_128_448, "29.13 M"), (999_999_999, "1 G"), (4_089_184_256, "4.089 G"),
        (15 * 10**11, "1.5 T"), (10**15, "1000 T"),
    ],
)  # fmt: skip
def test_counts_have_four_digits_and_a_unit(number: int, text: str) -> None:
    assert count(number) == text


def test_tables_align_columns_and_rule_off_the_total() -> None:
    text = table(("layer", "MACs"), [("first", 5), ("second.conv", "1.5 k"), ("total", 12)], right=(1,), total=True)
    assert text.splitlines() == [
        "layer          MACs",
        "───────────────────",
        "first             5",
        "second.conv   1.5 k",
        "───────────────────",
        "total            12",
    ]


def test_without_a_total_no_rule_stands_above_the_last_row() -> None:
    assert table(("a", "b"), [("1", "2"), ("3", "4")]).count("─\n") == 1


def test_names_are_no_markup() -> None:
    text = table(("name",), [("layers[0].[bold]conv",), (":smile:",)])
    assert "layers[0].[bold]conv" in text
    assert ":smile:" in text


def test_long_names_are_not_cut() -> None:
    name = "encoder." * 30
    assert name in table(("name", "MACs"), [(name, 1)])


def test_tables_are_text_in_a_notebook_and_on_colour_terminals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("first", 5)]
    plain = table(("layer", "MACs"), rows)
    assert "first" in plain
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "10")
    assert table(("layer", "MACs"), rows) == plain


class Called:
    def __call__(self) -> None: ...


def test_functions_are_told_apart_by_their_names_and_arguments() -> None:
    adam = partial(torch.optim.Adam, lr=0.1, betas=(0.9, 0.99))
    assert told(adam) == "Adam(lr=0.1, betas=[0.9, 0.99])"
    assert told(partial(adam, {"a": None}, weight=torch.zeros(2))) == (
        "Adam({'a': None}, lr=0.1, betas=[0.9, 0.99], weight=Tensor)"
    )
    assert told(Called()) == "Called"
    assert told(Recovery(epochs=3)).startswith("Recovery(block_epochs=1, epochs=3, mix=True")
    first, second = (fine_tuning([], loss=told, epochs=epochs, optimizer=adam) for epochs in (1, 10))
    assert told(first) == f"fine_tuning(loss=told, distillation=None, epochs=1, optimizer={told(adam)})"
    assert told(first) != told(second)
