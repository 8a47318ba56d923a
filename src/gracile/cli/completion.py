"""``gracile completion``: the words of the command line as a script for a shell, which starts no Python."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.main import get_command

from gracile.cli.app import app
from gracile.cli.arguments import Json
from gracile.cli.output import told

Shell = Literal["bash", "zsh", "fish"]


@dataclass(frozen=True)
class _Option:
    name: str
    help: str
    # The values that it takes; empty where any text may stand, as the name of a file.
    choices: tuple[str, ...]
    is_flag: bool


@app.command("completion", epilog='Example:  eval "$(gracile completion bash)"  in ~/.bashrc')
def completion_command(
    shell: Annotated[Shell, typer.Argument(help="The shell that reads the script.")], as_json: Json = False
) -> None:
    """Print a script that completes commands, options and their values in a shell."""
    script = _SCRIPTS[shell](get_command(app))
    told({"shell": shell, "script": script}, script, as_json=as_json)


def _options(command: Any) -> list[_Option]:
    """The long options of a command."""
    literals = _literals(command)
    return [
        _Option(
            name=name,
            help=getattr(parameter, "help", "") or "",
            choices=literals.get(parameter.name, ()),
            is_flag=bool(getattr(parameter, "is_flag", False)),
        )
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    ] + [_Option("--help", "Show this message and exit.", (), True)]


def _values(command: Any) -> tuple[str, ...]:
    """The values of a command's own argument."""
    literals = _literals(command)
    named = [parameter for parameter in command.params if not parameter.opts[0].startswith("-")]
    return tuple(choice for parameter in named for choice in literals.get(parameter.name, ()))


def _literals(command: Any) -> dict[str, tuple[str, ...]]:
    """The values of each parameter of a command that takes but a few: how typer keeps them, its versions differ in."""
    for registered in app.registered_commands:
        if registered.name == command.name and registered.callback is not None:
            hints = get_type_hints(registered.callback)
            return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
    return {}


def _bash(group: Any) -> str:
    options, values, taken = [], [], []
    for name, command in group.commands.items():
        options.append(f'      {name}) words="{" ".join(option.name for option in _options(command))}" ;;')
        if found := _values(command):
            values.append(f'      {name}) words="{" ".join(found)}" ;;')
        taken += [
            f'    "{name} {option.name}") words="{" ".join(option.choices)}" ;;'
            for option in _options(command)
            if not option.is_flag
        ]
    first = " ".join([*group.commands, *(option.name for option in _options(group))])
    return "\n".join(
        [
            "_gracile() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    words="{first}"',
            # Options where one is begun: anything else may be the name of a file.
            '  elif [ "${word#-}" != "$word" ]; then',
            '    case "${COMP_WORDS[1]}" in',
            *options,
            "    esac",
            "  else",
            '    case "${COMP_WORDS[1]}" in',
            *values,
            "    esac",
            "  fi",
            '  case "${COMP_WORDS[1]} $before" in',
            *taken,
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
            "}",
            # Where no word fits, names of files do.
            "complete -o default -F _gracile gracile",
        ]
    )


def _zsh(group: Any) -> str:
    return f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{_bash(group)}"


def _fish(group: Any) -> str:
    lines = []
    for option in _options(group):
        lines.append(f"complete -c gracile -n __fish_use_subcommand -l {option.name[2:]} -d {_quoted(option.help)}")
    for name, command in group.commands.items():
        help_line = (command.help or "").strip().partition("\n")[0]
        lines.append(f"complete -c gracile -n __fish_use_subcommand -f -a {name} -d {_quoted(help_line)}")
        inside = f"complete -c gracile -n '__fish_seen_subcommand_from {name}'"
        if values := _values(command):
            lines.append(f"{inside} -f -a '{' '.join(values)}'")
        for option in _options(command):
            takes = "" if option.is_flag else f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r"
            lines.append(f"{inside} -l {option.name[2:]}{takes} -d {_quoted(option.help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: Mapping[Shell, Callable[[Any], str]] = MappingProxyType({"bash": _bash, "zsh": _zsh, "fish": _fish})
