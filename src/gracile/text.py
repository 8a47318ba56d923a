"""Plain-text tables and numbers, as the library's objects print themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

# Lines as SIMPLE_HEAD draws them, and one between sections.
_BOX = box.Box(
    "    \n"  # top
    "    \n"  # header
    " ── \n"  # below the header
    "    \n"  # row
    " ── \n"  # between sections
    "    \n"  # above the footer
    "    \n"  # footer
    "    \n"  # bottom
)
_PLAIN = (bool, int, float, complex, str)
_UNITS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def function_name(function: object) -> str:
    """What a function is called, or the class of an object that is called like one."""
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name


def told(value: object) -> str:
    """What stands for a value, functions by their names, equal in every process: addresses are not.

    Of a partial function its arguments count, too, and of a record its fields.
    """
    if is_dataclass(value) and not isinstance(value, type):
        told_fields = [f"{field.name}={told(getattr(value, field.name))}" for field in fields(value)]
        return f"{type(value).__name__}({', '.join(told_fields)})"
    if isinstance(value, partial):
        given = [*map(told, value.args), *(f"{name}={told(item)}" for name, item in value.keywords.items())]
        return f"{told(value.func)}({', '.join(given)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{told(key)}: {told(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(told, value))}]"
    if value is None or isinstance(value, _PLAIN):
        return repr(value)
    return function_name(value)


def count(number: int) -> str:
    """A count with four significant digits and a unit: 29128448 -> "29.13 M"."""
    for size, unit in _UNITS:
        # From 999950 on, four digits show the next unit's one.
        if number >= size - size / 20000:
            return f"{number / size:.4g} {unit}"
    return str(number)


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = (), total: bool = False
) -> str:
    """Aligned columns, those in ``right`` flush right; with ``total`` a rule stands above the last row."""
    drawn = Table(box=_BOX, show_edge=False, pad_edge=False)
    for index, name in enumerate(header):
        drawn.add_column(name, justify="right" if index in right else "left", no_wrap=True)
    for index, row in enumerate(rows):
        above_total = total and index == len(rows) - 2
        drawn.add_row(*(str(cell) for cell in row), end_section=above_total)
    buffer = StringIO()
    # Not as in a notebook, where rich displays instead of writing.
    console = Console(
        file=buffer, width=1000, force_terminal=False, force_jupyter=False, markup=False, highlight=False, emoji=False
    )  # fmt: skip
    console.print(drawn)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
