"""YAML files as plain data that knows its lines: nothing in a file can run code or grow when it is read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gracile.errors import FileError, RecipeError

MAX_BYTES = 64 * 1024
# Nesting costs the scanner quadratic time, and the composer a stack frame each.
MAX_DEPTH = 12

Path_ = tuple[str | int, ...]

# Everything else, dates included, stays the text that was written.
_CONSTRUCTED = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null"))


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and a column, counted from one."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something wrong at a place."""

    place: Place
    text: str


@dataclass(frozen=True, eq=False, kw_only=True)
class YamlFile:
    """A mapping read from a YAML file."""

    name: str
    data: dict[str, Any]
    # The path of each value -> where it begins; of each value in a mapping -> where its key begins.
    values: dict[Path_, Place]
    keys: dict[Path_, Place]

    def known(self, path: Path_) -> Path_:
        """The longest part of ``path`` that the file has; steps that it does not have are skipped."""
        found: Path_ = ()
        for step in path:
            if (*found, step) in self.values:
                found = (*found, step)
        return found

    def fault(self, path: Path_, text: str, *, key: bool = False) -> Fault:
        """``text`` about the value at ``path``, or about its key."""
        known = self.known(path)
        return Fault(self.keys.get(known, self.values[known]) if key else self.values[known], text)

    def refuse(self, faults: Iterable[Fault]) -> None:
        """Raises RecipeError where there are faults: one line each, in the order of the file."""
        lines = [f"{self.name}:{fault.place.line}:{fault.place.column}: {fault.text}" for fault in sorted(set(faults))]
        if lines:
            raise RecipeError("\n".join(lines))


def read_yaml(file: str | Path) -> YamlFile:
    """Read a file of one mapping, safely.

    Raises:
        FileError: the file cannot be read, or is too large.
        RecipeError: it is no YAML, no mapping, or uses what is not needed here: anchors and aliases (which can
            grow a small file without bounds), tags, several documents, a key twice.
    """
    name, text = str(file), _text(Path(file))
    try:
        _refuse_events(name, text)
        node = _yaml().compose(text)
        if node is None:
            raise RecipeError(f"{name}:1:1: the file is empty")
        if not isinstance(node, MappingNode):
            raise RecipeError(f"{_at(name, node.start_mark)}: the file holds no mapping; write lines like model: a.b:c")
        builder = _Builder()
        document = YamlFile(name=name, data=builder.build(node, ()), values=builder.values, keys=builder.keys)
    except MarkedYAMLError as error:
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        place = _at(name, error.problem_mark or error.context_mark)
        raise RecipeError(f"{place}: no valid YAML: {problem}") from error
    except YAMLError as error:
        raise RecipeError(f"{name}: no valid YAML: {str(error).strip().splitlines()[0]}") from error
    document.refuse(builder.faults)
    return document


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise FileError(f"{file} is larger than {MAX_BYTES // 1024} KiB; a recipe is a page of text")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{file} is no UTF-8 text (byte {error.start})") from error
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from error


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _refuse_events(name: str, text: str) -> None:
    """Look at the file as a stream, before anything is built from it."""
    depth = documents = 0
    for event in _yaml().parse(text):
        place = _at(name, event.start_mark)
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise RecipeError(f"{place}: a second document begins here; a recipe is one document")
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor is not None):
            sign = "*" if isinstance(event, AliasEvent) else "&"
            raise RecipeError(f"{place}: {sign}{event.anchor}: anchors and aliases are refused; write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise RecipeError(f"{place}: the tag {event.tag} is refused; write plain values")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecipeError(f"{place}: nested more than {MAX_DEPTH} levels deep")


class _Builder:
    """Plain data of composed nodes, with the place of each."""

    def __init__(self) -> None:
        self.values: dict[Path_, Place] = {}
        self.keys: dict[Path_, Place] = {}
        self.faults: list[Fault] = []
        self._scalars: SafeConstructor = _yaml().constructor

    def build(self, node: Node, path: Path_) -> Any:
        self.values[path] = _place(node.start_mark)
        if isinstance(node, MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _items(self, node: MappingNode, path: Path_) -> Iterator[tuple[str, Any]]:
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.faults.append(Fault(_place(key.start_mark), "a key must be plain text"))
                continue
            below = (*path, str(key.value))
            if below in self.keys:
                first = self.keys[below].line
                self.faults.append(Fault(_place(key.start_mark), f"{key.value} stands in line {first} already"))
                continue
            self.keys[below] = _place(key.start_mark)
            yield str(key.value), self.build(value, below)

    def _scalar(self, node: Node) -> Any:
        if node.tag not in _CONSTRUCTED:
            return node.value
        try:
            return self._scalars.construct_object(node, deep=True)
        except (ValueError, ConstructorError):
            # A number with thousands of digits is text like any other.
            return node.value


def _place(mark: StringMark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _at(name: str, mark: StringMark | None) -> str:
    if mark is None:
        return name
    place = _place(mark)
    return f"{name}:{place.line}:{place.column}"
