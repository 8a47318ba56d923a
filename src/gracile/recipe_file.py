"""The recipe of `gracile compress` as a YAML file: validated at once, every fault with its line and column."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from gracile.auto_options import AUTO, auto_of
from gracile.cost import METRICS, Metric
from gracile.errors import InputError
from gracile.inputs import ExampleInputs
from gracile.maths.quant_spec import INTEGERS
from gracile.recipe import (
    METHODS,
    SEARCHES,
    Scope,
    Search,
    Target,
    methods_of,
    options_of,
    require_bound,
    require_one,
)
from gracile.references import function, make, require_reference
from gracile.split_options import split_of
from gracile.timings import RUNTIMES, Runtime
from gracile.yaml_file import Fault, Path_, YamlFile, read_yaml

# Of a part of the user's own.
NAME = r"^[^+]+$"

Dtype = Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]

Reference = Annotated[str, AfterValidator(require_reference)]


# Elements: 4 GiB of float32.
_LARGEST_INPUT = 2**30


class _Section(BaseModel):
    # Strict, as "0.5" in quotes or a 1 for true is rather a mistake than a wish.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class InputSection(_Section):
    """One input tensor of the model: zeros for whole numbers, noise for others."""

    shape: Annotated[
        Sequence[Annotated[int, Field(ge=1)]], Field(description="a list of positive sizes, as in [1, 3, 224, 224]")
    ]
    dtype: Annotated[Dtype, Field(description=f"one of {', '.join(get_args(Dtype))}")] = "float32"

    @field_validator("shape")
    @classmethod
    def _of_a_size(cls, shape: Sequence[int]) -> Sequence[int]:
        require_size(shape)
        return shape

    @model_validator(mode="before")
    @classmethod
    def _bare_shape(cls, value: object) -> object:
        return {"shape": value} if isinstance(value, list) else value

    def tensor(self, generator: torch.Generator) -> Tensor:
        """A tensor of this shape and dtype.

        Zero is an admissible index of every table, so whole numbers are zeros; masks are true.
        """
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.randn(*self.shape, generator=generator).to(dtype)
        return torch.full(tuple(self.shape), dtype is torch.bool, dtype=dtype)


def require_size(shape: Sequence[int]) -> None:
    """Raises InputError where an example input would fill the memory of any machine."""
    if prod(shape) > _LARGEST_INPUT:
        raise InputError(
            f"shape {list(shape)} has {prod(shape):.3g} elements; an example input has at most {_LARGEST_INPUT:.3g}, "
            "and a single example with the sizes of your data will do"
        )


def require_sizes(shapes: Iterable[Sequence[int]]) -> None:
    """Raises InputError where all inputs together would: each alone may be small enough."""
    total = sum(prod(shape) for shape in shapes)
    if total > _LARGEST_INPUT:
        raise InputError(
            f"the shapes have {total:.3g} elements together; example inputs have at most {_LARGEST_INPUT:.3g}, and a "
            "single example with the sizes of your data will do"
        )


def _sound_method(method: str) -> str:
    """Names that are none of gracile's may be registered by what is imported later."""
    if method != AUTO:
        methods_of(method, registered=method.split("+"))
    return method


def _known_options(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if values is not None:
        auto_of(values)
    return values


def _known_split(values: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if values is not None:
        split_of(values)
    return values


class TargetSection(_Section):
    """The target: exactly one of its metrics."""

    macs: Any = None
    params: Any = None
    bytes: Any = None
    latency: Any = None
    own: Annotated[
        Mapping[str, Any] | None,
        Field(description="the name of a metric that was registered, with its bound, as in {energy: 0.5}"),
    ] = None
    runtime: Annotated[Runtime, Field(description=f"one of {', '.join(RUNTIMES)}")] = "onnxruntime"
    threads: int = 1

    @field_validator("macs", "params", "bytes", "latency")
    @classmethod
    def _amount(cls, value: Any, info: Any) -> Any:
        if value is not None:
            Target(**{info.field_name: value})
        return value

    @field_validator("own")
    @classmethod
    def _bounded(cls, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if value is not None:
            ((name, bound),) = require_one(value).items()
            require_bound(name, bound)
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.own is None or any(getattr(self, name) is not None for name in (*METRICS, "latency")):
            self.target()
        return self

    def target(self) -> Target:
        """The target.

        Raises:
            InputError: it is none, or of a metric that was not registered.
        """
        return Target(
            macs=self.macs, params=self.params, bytes=self.bytes, latency=self.latency, own=self.own,
            runtime=self.runtime, threads=self.threads,
        )  # fmt: skip


class SearchSection(_Section):
    """How the ratios are found: a name alone, or with options."""

    kind: Annotated[
        str, Field(pattern=NAME, description=f"one of {', '.join(SEARCHES)}, or the name of one that was registered")
    ] = "exact"
    candidates: Annotated[Any, Field(description="a number of ratios, or a list of them")] = 10
    monotonic: Annotated[bool, Field(description="true or false")] = False
    surrogate: Annotated[
        int | Literal["auto"] | None, Field(description='a number of evaluations from 2 on, or "auto"')
    ] = None
    options: Annotated[
        Mapping[str, Any] | None, Field(description="options of the kind, as in {start_temperature: 50}")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _bare_kind(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("candidates")
    @classmethod
    def _ratios(cls, value: Any) -> int | tuple[float, ...]:
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(number, int | float) for number in numbers):
            raise InputError(f"candidates is {value!r}; give a number of ratios, as 10, or a list, as [0.25, 0.5]")
        given = tuple(value) if isinstance(value, list) else value
        return Search(candidates=given).candidates

    @model_validator(mode="after")
    def _known_options(self) -> Self:
        # Names that are none of gracile's may be registered by what is imported later.
        self._of_kind(self.kind if self.kind in SEARCHES else "exact")
        return self

    def search(self) -> Search:
        """The search.

        Raises:
            InputError: there is none of that name.
        """
        return self._of_kind(self.kind)

    def _of_kind(self, kind: str) -> Search:
        options = None if self.options is None else options_of(self.kind, self.options)
        return Search(
            kind=kind,
            candidates=self.candidates,
            monotonic=self.monotonic,
            surrogate=self.surrogate,
            options=options,
        )


def _form_of_inputs(value: object) -> str:
    return "factory" if isinstance(value, str) else "shapes"


_INPUTS = (
    "a list of shapes, as in [[1, 3, 224, 224]] or [{shape: [1, 128], dtype: int64}], or a factory of example inputs"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What a recipe asks for, ready to run: ``compress(job.model, job.example_inputs, **job.options)``."""

    model: nn.Module
    example_inputs: ExampleInputs
    # Keyword arguments of `gracile.compress`.
    options: dict[str, Any]
    output: Path | None


class Recipe(_Section):
    """The fields of a recipe file.  Names of functions have the form ``package.module:attribute``."""

    model: Annotated[Reference, Field(description="a factory of the trained model, as in package.module:factory")]
    inputs: Annotated[
        Annotated[Reference, Tag("factory")] | Annotated[Sequence[InputSection], Field(min_length=1), Tag("shapes")],
        Discriminator(_form_of_inputs),
        Field(description=_INPUTS),
    ]
    evaluate: Annotated[Reference, Field(description="a function model -> score, as in package.module:function")]
    evaluate_search: Annotated[Reference | None, Field(description="a function model -> score")] = None
    calibration: Annotated[Reference | None, Field(description="an iterable of batches, or a factory of one")] = None
    fine_tune: Annotated[Reference | None, Field(description="a function that trains the model that it is given")] = (
        None
    )
    fine_tune_layer: Annotated[Reference | None, Field(description="a function of the model and a layer's name")] = None
    method: Annotated[
        str,
        AfterValidator(_sound_method),
        Field(description=f"one of {', '.join(METHODS)} or one that was registered, several joined by +, or {AUTO}"),
    ] = "spatial_svd"
    criterion: Annotated[
        str, Field(description='the name of a criterion, as in "l2", or a function, as package.module:function')
    ] = "auto"
    # How many workers there are, and where, is the machine's matter: options of the command line.
    recover: Annotated[Literal["distill"] | None, Field(description='"distill"')] = None
    loss: Annotated[Reference | None, Field(description="a function of the model and a batch")] = None
    scope: Annotated[Scope, Field(description=f"one of {', '.join(get_args(Scope))}")] = "layer"
    max_sparsity: Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")] = 0.9
    target: Annotated[
        TargetSection | None, Field(description='one metric and its bound, as in {macs: 0.5} or {params: "1.5M"}')
    ] = None
    ratios: Annotated[
        Mapping[str, Annotated[float, Field(gt=0, le=1)]] | None,
        Field(description="patterns of layers with the share of their cost that remains, a number in (0, 1]"),
    ] = None
    search: Annotated[
        SearchSection,
        Field(description=f"one of {', '.join(SEARCHES)}, one that was registered, or a kind with options"),
    ] = SearchSection()
    auto: Annotated[
        Mapping[str, Any] | None,
        AfterValidator(_known_options),
        Field(description="options of the method auto, as in {trials: 20}"),
    ] = None
    split: Annotated[
        Mapping[str, Any] | None,
        AfterValidator(_known_split),
        Field(description="how several methods share the target, as in {values: [0.4, 0.6], tolerated: 0.05}"),
    ] = None
    ratios_metric: Annotated[Metric, Field(description=f"one of {', '.join(METRICS)}")] = "macs"
    round_to: Annotated[
        Annotated[int, Field(ge=1)] | Literal["auto"], Field(description='a whole number of at least 1, or "auto"')
    ] = "auto"
    exclude: Annotated[Sequence[str], Field(description='a list of patterns, as in ["head*"]')] = ()
    layer_latency: Annotated[
        Runtime | None, Field(description=f"where layers are timed alone: one of {', '.join(RUNTIMES)}")
    ] = None
    store: Annotated[str | None, Field(description="the path of an SQLite file")] = None
    shared_store: Annotated[bool, Field(description="true where the store holds several models or data sets")] = False
    seed: Annotated[int, Field(ge=0, description="a whole number of at least 0")] = 0
    output: Annotated[str | None, Field(description="the path of a folder")] = None

    _file: YamlFile = PrivateAttr()

    @field_validator("inputs")
    @classmethod
    def _together(cls, inputs: str | Sequence[InputSection]) -> str | Sequence[InputSection]:
        if not isinstance(inputs, str):
            require_sizes(item.shape for item in inputs)
        return inputs

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """Read and validate a recipe file; nothing is imported yet.

        Raises:
            FileError: the file cannot be read.
            RecipeError: it is malformed; the message lists all faults with their places.
        """
        document = read_yaml(file)
        faults = _either_or(document)
        try:
            recipe = cls.model_validate(document.data)
        except ValidationError as error:
            document.refuse([*faults, *(_fault(document, detail) for detail in error.errors())])
            raise
        document.refuse(faults)
        recipe._file = document
        return recipe

    def job(self) -> Job:
        """Import what the recipe names, and make the model and the data.

        Raises:
            RecipeError: something cannot be imported or made; the message lists all such faults.
        """
        faults: list[Fault] = []

        def made(field: str, make_it: Callable[[str], Any]) -> Any:
            try:
                return None if getattr(self, field) is None else make_it(getattr(self, field))
            except InputError as error:
                faults.append(self._file.fault((field,), f"{field}: {error}"))

        model = made("model", partial(make, kind=nn.Module, noun="a torch.nn.Module"))
        options = {field: made(field, function) for field in _FUNCTIONS}
        options["calibration"] = made("calibration", partial(make, kind=Iterable, noun="an iterable of batches"))
        if isinstance(self.inputs, str):
            inputs = made("inputs", partial(make, kind=_EXAMPLES, noun="a tensor, a tuple or a dictionary of tensors"))
        else:
            inputs = examples(self.inputs, self.seed)
        options["criterion"] = made("criterion", function) if ":" in self.criterion else self.criterion
        options |= self._registered(faults)
        self._file.refuse(faults)
        options |= {field: getattr(self, field) for field in _PLAIN}
        if self.method == AUTO or self.auto is not None:
            options["auto"] = auto_of(self.auto or {})
        if self.split is not None:
            options["split"] = split_of(self.split)
        output = None if self.output is None else Path(self.output)
        return Job(model=model, example_inputs=inputs, options=options, output=output)

    def _registered(self, faults: list[Fault]) -> dict[str, Any]:
        """The arguments that may name what the modules that were imported have registered."""
        options: dict[str, Any] = {}
        makers: Mapping[str, tuple[Path_, Callable[[], Any]]] = {
            "method": (("method",), lambda: self.method if self.method == AUTO else "+".join(methods_of(self.method))),
            "search": (("search", "kind"), self.search.search),
            "target": (("target", "own"), lambda: None if self.target is None else self.target.target()),
        }
        for name, (place, make_it) in makers.items():
            try:
                options[name] = make_it()
            except InputError as error:
                faults.append(self._file.fault(self._file.known(place), str(error)))
        return options


_EXAMPLES = (Tensor, tuple, list, Mapping)
# Fields that are arguments of `compress` as they stand.
_PLAIN = (
    "scope",
    "max_sparsity",
    "ratios",
    "ratios_metric",
    "round_to",
    "exclude",
    "layer_latency",
    "store",
    "shared_store",
    "seed",
    "recover",
)
_FUNCTIONS = ("evaluate", "evaluate_search", "loss", "fine_tune", "fine_tune_layer")

_SECTIONS: Mapping[str, type[_Section]] = {"target": TargetSection, "search": SearchSection, "inputs": InputSection}


def examples(inputs: Iterable[InputSection], seed: int = 0) -> tuple[Tensor, ...]:
    """Positional arguments for a model."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(item.tensor(generator) for item in inputs)


def _either_or(document: YamlFile) -> list[Fault]:
    given = [name for name in ("target", "ratios") if document.data.get(name) is not None]
    if len(given) == 1 or (not given and document.data.get("method") in INTEGERS):
        return []
    if given:
        text = "target and ratios exclude each other: with a target the ratios are found, otherwise they are given"
        return [document.fault(("ratios",), text, key=True)]
    return [document.fault((), "target is missing; write for example target: {macs: 0.5}, or ratios by hand")]


def _fault(document: YamlFile, detail: ErrorDetails) -> Fault:
    """One of pydantic's errors with its place, the offending value and what is admissible."""
    path = detail["loc"]
    section, expected = _meaning(path)
    known = document.known(path)
    name = _dotted(known)
    if detail["type"] == "missing":
        missing = str(path[-1])
        return document.fault(path, f"{_dotted((*known, missing))} is missing; give {expected}")
    if detail["type"] == "extra_forbidden":
        return document.fault(path, _unknown(str(path[-1]), name, section), key=True)
    if detail["type"] == "value_error" and isinstance(detail["ctx"]["error"], InputError):
        text = str(detail["ctx"]["error"])
        return document.fault(path, text if known and text.startswith(str(known[-1])) else f"{name}: {text}")
    return document.fault(path, f"{name} is {detail['input']!r}; give {expected}")


def _meaning(path: Path_) -> tuple[type[_Section], str]:
    """The section that a path leads into, and in words what may stand there."""
    field = Recipe.model_fields.get(str(path[0]))
    expected = "" if field is None else field.description or ""
    section = _SECTIONS.get(str(path[0]))
    if section is None or len(path) == 1:
        return Recipe, expected
    for step in path[1:]:
        inner = section.model_fields.get(str(step))
        expected = expected if inner is None else inner.description or expected
    return section, expected


def _unknown(key: str, name: str, section: type[_Section]) -> str:
    fields = list(section.model_fields)
    close = difflib.get_close_matches(key, fields, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(fields)}"
    return f"there is no field {name}; {hint}"


def _dotted(path: Path_) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
