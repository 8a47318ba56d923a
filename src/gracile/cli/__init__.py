"""The command line: one file for each family of commands, all registered on one app."""

from gracile.cli import jobs, measuring, single, written
from gracile.cli.app import app, main
from gracile.cli.completion import completion_command

__all__ = ["app", "completion_command", "jobs", "main", "measuring", "single", "written"]
