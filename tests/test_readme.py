"""The README says what the package does: figures, commands, options and exit codes."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
import typer

from stimage_qupath import cli, errors

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COLUMNS = ("pcc_residual_mean", "pcc_partial_depth_mean", "pcc_normalised_mean")


@pytest.fixture(scope="module")
def card():
    path = Path(str(resources.files("stimage_qupath") / "starter" / "model.json"))
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_starters_table_is_its_card(card):
    sections = {name: m for kind in card["held_out"].values() for name, m in kind["sections"].items()}
    rows = re.findall(r"^\| ([A-Z]\d) \| .* \| (.*) \| (.*) \| (.*) \|$", README, flags=re.MULTILINE)
    assert {name for name, *_ in rows} == set(sections)
    for name, *figures in rows:
        for column, written in zip(COLUMNS, figures, strict=True):
            figure = sections[name][column]
            assert written == f"{figure['value']:.3f} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]"
    assert f"{len(card['panel']):,} genes" in README


def test_the_first_block_holds_the_two_commands():
    first = README.split("```")[1].strip().splitlines()
    assert first == [
        "python -m pip install . && stimage-qupath demo",
        'python -m pip install ".[test]" && python -m pytest -n auto --dist loadfile',
    ]


def test_options_in_the_readme_exist(capsys):
    for command in typer.main.get_command(cli.app).commands:
        cli.run([command, "--help"])
    helped = capsys.readouterr().out
    for option in set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", README)) - {"--index-url"}:
        assert option in helped, option


def test_every_exit_code_is_explained():
    def codes(kind):
        return {kind.exit_code}.union(*(codes(sub) for sub in kind.__subclasses__()))

    explained = {int(code) for code in re.findall(r"^\| (\d+) \| ", README, flags=re.MULTILINE)}
    assert explained >= codes(errors.StimageError)


def test_scripts_and_pictures_that_the_readme_names_are_there():
    root = Path(__file__).parents[1]
    scripts = {path.stem for path in (root / "groovy").glob("*.groovy")}
    assert {"Predict selected annotations", "Predict for project", "Show gene", "STimage menu"} <= scripts
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (root / picture).is_file()
