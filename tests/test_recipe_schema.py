import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.optional import optional

from gracile.cli import main
from gracile.recipe_file import Recipe
from gracile.recipe_schema import generated, recipe_schema

jsonschema = optional("jsonschema")
ROOT = Path(__file__).parent.parent
SMALL = "model: my.job:net\ninputs: [[1, 3, 8, 8]]\nevaluate: my.job:score\ntarget: {macs: 0.5}\n"
FENCED = re.compile(r"```yaml\n(model:.*?)```|write_text\(\"\"\"\n(model:.*?)\"\"\"", re.DOTALL)
RECIPES = [
    found[1] or found[2]
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for found in FENCED.finditer(page.read_text(encoding="utf-8"))
]


def accepted(text):
    return jsonschema.Draft202012Validator(recipe_schema()).is_valid(YAML(typ="safe").load(text))


def test_the_shipped_schema_is_up_to_date():
    # To renew it: json.dumps(generated(), indent=2) into src/gracile/recipe.schema.json.
    assert recipe_schema() == json.loads(json.dumps(generated()))
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


def test_recipes_of_the_docs_are_valid(tmp_path):
    assert len(RECIPES) >= 2
    for text in RECIPES:
        assert accepted(text), text
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        Recipe.read(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("line", "valid"),
    [
        ("search: greedy", True),
        ("search: {kind: exact, candidates: [0.25, 0.5]}", True),
        ("method: prune+int8", True),
        ("round_to: 8", True),
        ("search: mine", True),
        ("search: {kind: mine, candidates: 4}", True),
        ("method: mine+prune+int8", True),
        ("search: a+b", False),
        ("method: int8+prune", False),
        ("method: prune+int4", True),
        ("method: int4+prune", False),
        ("method: prune++int8", False),
        ("exclud: [a]", False),
        ("max_sparsity: 2", False),
        ("seed: -1", False),
        ("loss: not a reference", False),
        ("round_to: none", False),
    ],
)
def test_schema_and_reader_agree(tmp_path, line, valid):
    text = f"{SMALL}{line}\n"
    assert accepted(text) is valid
    (tmp_path / "recipe.yaml").write_text(text)
    if valid:
        Recipe.read(tmp_path / "recipe.yaml")
    else:
        with pytest.raises(ValueError, match=r"recipe\.yaml:5"):
            Recipe.read(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    ("target", "valid"),
    [
        ("{own: {energy: 0.5}}", True),
        ('{own: {energy: "5M"}}', True),
        ("{own: {a: 0.5, b: 0.5}}", False),
        ("{own: {}}", False),
        ("{own: energy}", False),
    ],
)
def test_targets_of_ones_own(tmp_path, target, valid):
    text = SMALL.replace("{macs: 0.5}", target)
    assert accepted(text) is valid
    (tmp_path / "recipe.yaml").write_text(text)
    if valid:
        Recipe.read(tmp_path / "recipe.yaml")
    else:
        with pytest.raises(ValueError, match=r"recipe\.yaml:4"):
            Recipe.read(tmp_path / "recipe.yaml")


def test_the_command_prints_it(capsys):
    with pytest.raises(SystemExit):
        main(["schema"])
    assert json.loads(capsys.readouterr().out) == recipe_schema()
