"""The site shows the tables of bench/, which stand outside docs/: they join it, and links to them follow."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
_LINK = re.compile(r"\]\((?:\.\./)+bench/")


def on_files(files: Files, config: Any) -> Files:
    """Add every table of bench/."""
    for table in sorted((ROOT / "bench").glob("*.md")):
        if not table.name.endswith(".head.md"):
            files.append(File.generated(config, f"bench/{table.name}", content=table.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to bench/ lead to where the tables are on the site."""
    depth = page.file.src_uri.count("/")
    return _LINK.sub(f"]({'../' * depth}bench/", markdown)
