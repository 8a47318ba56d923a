"""Which modules an entry of a config_list selects."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import known_modules, names_list, patterns
from gracile.errors import InputError

log = logging.getLogger(__name__)

# What "default" stands for among op_types: the modules that have weights to mask.
WEIGHTED = frozenset(
    """
    Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear PReLU Embedding EmbeddingBag
    """.split()
)
SELECTORS = ("op_names", "op_names_re", "op_types", "op_partial_names")


class Modules:
    """The modules of a model by name, and what an entry selects of them."""

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}; give a torch.nn.Module")
        self.by_name = {name: module for name, module in model.named_modules() if name or not list(model.children())}

    def kind(self, name: str) -> str:
        """The class of a module, without what torch's parametrizations prepend."""
        return type(self.by_name[name]).__name__.removeprefix("Parametrized")

    def selected(self, where: str, entry: Mapping[str, Any]) -> list[str]:
        """((op_names and op_names_re and op_partial_names) of op_types) without the entry's own excludes, in the order
        of the model.

        Raises:
            InputError: there is no selector, or a name is unknown.
        """
        if not any(key in entry for key in SELECTORS):
            raise InputError(f"{where} selects nothing: give at least one of {', '.join(SELECTORS)}")
        named = self._named(where, entry, "op_names", "op_names_re", "op_partial_names")
        kinds = self._kinds(where, entry, "op_types")
        by_name = any(key in entry for key in SELECTORS if key != "op_types")
        chosen = [
            name
            for name in self.by_name
            if (not by_name or name in named) and (kinds is None or self.kind(name) in kinds)
        ]
        without = self._named(where, entry, "exclude_op_names", "exclude_op_names_re", None)
        without_kinds = self._kinds(where, entry, "exclude_op_types") or frozenset()
        found = [name for name in chosen if name not in without and self.kind(name) not in without_kinds]
        if not found:
            log.warning("%s selects no module of the model", where)
        return found

    def _named(self, where: str, entry: Mapping[str, Any], names: str, regular: str, partial: str | None) -> set[str]:
        listed = names_list(where, names, entry.get(names, []))
        known_modules(where, names, listed, self.by_name)
        found = set(listed)
        for pattern in patterns(where, regular, entry.get(regular, [])):
            found |= self._hits(where, regular, pattern.pattern, lambda name, p=pattern: bool(p.match(name)))  # type: ignore[misc]
        for part in names_list(where, partial, entry.get(partial, [])) if partial else ():
            found |= self._hits(where, str(partial), part, lambda name, p=part: p in name)  # type: ignore[misc]
        return found

    def _hits(self, where: str, key: str, text: str, matches: Callable[[str], bool]) -> set[str]:
        hits = {name for name in self.by_name if matches(name)}
        if not hits:
            log.warning("%s: %s has %r, which matches no module", where, key, text)
        return hits

    def _kinds(self, where: str, entry: Mapping[str, Any], key: str) -> frozenset[str] | None:
        if key not in entry:
            return None
        kinds = names_list(where, key, entry[key])
        present = {self.kind(name) for name in self.by_name}
        for kind in kinds:
            if kind != "default" and kind not in present:
                log.warning("%s: %s has %r, and the model has no such module", where, key, kind)
        return frozenset(kinds) | (WEIGHTED if "default" in kinds else frozenset())
