"""Claims about the documents: every command in them parses, every file they name exists, every recipe loads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from internvl_detect import cli
from internvl_detect.config import load_train_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    """(page, words) of every ivdetect command in a code block or in backticks."""
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        blocks = re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.S)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(ivdetect [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        for line in lines:
            for part in line.split(" | "):  # a choice like "ps|CASIA2" is no pipe
                words = shlex.split(part, comments=True)
                if words[:1] == ["ivdetect"]:
                    yield page.name, words[1:]


COMMANDS = list(commands())


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{p}: {' '.join(w)}"[:90] for p, w in COMMANDS])
def test_every_command_in_the_documents_exists_with_its_options(page, words):
    command = typer.main.get_command(cli.app)
    context = click.Context(command)
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{page}: no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
        context = click.Context(command, parent=context)
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--") or re.fullmatch(r"-[a-z]", word):
            assert word.split("=")[0] in known, f"{page}: {word}"


def test_there_are_commands_in_the_readme():
    assert sum(page == "README.md" for page, _ in COMMANDS) >= 5


def test_every_script_and_file_that_the_documents_name_exists():
    names = re.compile(
        r"(?<![\w/.])((?:scripts|finetune|recipes|benchmarks|results|docs|tests|internvl_detect)/[\w./-]+\w)"
    )
    for page in PAGES:
        for name in names.findall(page.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_loads_and_says_how_to_run_it(recipe):
    text = recipe.read_text("utf-8")
    assert text.startswith("#") and re.search(r"ivdetect|torchrun|internvl_detect\.", text.split("\n\n")[0])
    if "weight_path" in text:
        assert load_train_config(recipe, env={}).weight_path


@pytest.mark.parametrize("script", sorted(ROOT.glob("scripts/**/*.sh")) + sorted(ROOT.glob("finetune/*.sh")), ids=str)
def test_scripts_are_thin_and_name_only_commands_that_exist(script):
    import subprocess

    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    text = script.read_text("utf-8")
    assert len(text.splitlines()) < 80
    options = re.findall(r"(?:\"\$ivdetect\"|ivdetect\.cli|ivdetect) (data \w+|[a-z]+)", text)
    names = {*typer.main.get_command(cli.app).commands, "data samples", "data check"}
    assert set(options) <= names | {"train"}


def options_of(command, name=""):
    """(command, option) of every option that the program has."""
    for word, child in getattr(command, "commands", {}).items():
        yield from options_of(child, f"{name} {word}".strip())
    for parameter in command.params:
        if parameter.param_type_name == "option" and not getattr(command, "commands", None):
            yield name, "|".join(word for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("--"))


OPTIONS = [(name, option) for name, option in options_of(typer.main.get_command(cli.app)) if option != "--help"]


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[" ".join(pair) for pair in OPTIONS])
def test_every_option_of_every_command_is_in_the_documents(command, option):
    """On a page that shows the command, so that whoever reads of the one finds the other."""
    pages = [page.read_text("utf-8") for page in PAGES]
    assert any(f"ivdetect {command}" in text and re.search(rf"(?:{option})(?![\w-])", text) for text in pages)
