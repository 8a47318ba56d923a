"""Every Python block of the README and of docs/ runs as it stands, top to bottom, one namespace a page."""

import inspect
import logging
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.optional import optional

import gracile
import gracile.testing

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A page of code for other libraries names them in a comment, which readers do not see: it is skipped without them.
NEEDS = re.compile(r"^<!-- needs: (.*) -->$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRACILE_DATA", str(tmp_path))
    text = page.read_text(encoding="utf-8")
    if needs := NEEDS.search(text):
        for package in needs[1].split(", "):
            optional(package)
    namespace = {"__name__": "docs"}
    for block in BLOCK.finditer(text):
        # As many empty lines as stand before the block: a traceback then names the page's line.
        lines = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def entries(part):
    """The pages of mkdocs' navigation."""
    match part:
        case str():
            return [part]
        case dict():
            return entries(list(part.values()))
    return [page for inner in part for page in entries(inner)]


def test_the_navigation_has_every_page_once():
    found = entries(YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    tables = [f"bench/{table.name}" for table in (ROOT / "bench").glob("*.md") if not table.name.endswith(".head.md")]
    assert sorted(found) == sorted([*pages, *tables])


def test_the_reference_has_every_public_name_once():
    listed = re.findall(r"^::: gracile\.(.*)$", (ROOT / "docs/reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    named = {id(value) for name in listed if (value := attribute(name)) is not None}
    packages = ["", "export.", "lowrank.", "prune.", "quant.", "train."]
    public = [prefix + name for prefix in packages for name in attribute(prefix.rstrip(".")).__all__]
    wanted = {name for name in public if inspect.isclass(attribute(name)) or inspect.isfunction(attribute(name))}
    assert not {name for name in wanted if id(attribute(name)) not in named}


def attribute(path):
    found = gracile
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return found
