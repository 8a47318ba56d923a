"""AIMET points at layers by module objects, gracile by names."""

from torch import nn

from gracile.errors import InputError


class ModuleNames:
    """The names of a model's modules; a module under several names has the first of them, as layers do."""

    def __init__(self, model: nn.Module) -> None:
        self._model = type(model).__name__
        self._names: dict[int, str] = {id(module): name for name, module in model.named_modules()}

    def name(self, module: nn.Module, where: str) -> str:
        """Raises InputError where the model does not contain this very object."""
        if not isinstance(module, nn.Module):
            raise InputError(f"{where} holds {module!r}; it takes modules of the model, as model.conv1")
        if id(module) not in self._names:
            raise InputError(
                f"{where} holds {module}, which is not part of this {self._model}: take the modules from the very "
                "model that is passed, not from a copy or an earlier instance of it"
            )
        return self._names[id(module)]
