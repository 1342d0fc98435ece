"""Claims about the house: arrows point one way, heavy imports wait, documents and shipped files keep the rules."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "internvl_detect"
# Each room may import from rooms of a lower number only, or from itself.
FLOORS = {
    "errors": 0, "questions": 0, "explanations": 0,
    "verdict": 1, "progress": 1, "files": 1, "http_calls": 1,
    "uploads": 2, "media": 2, "config": 2, "client": 3,
    "data": 3, "model": 3,
    "evaluate": 4, "report": 4,
    "train": 5, "detect": 5,
    "doctor": 6, "serve": 6,
    "cli": 7,
}  # fmt: skip
# The same inside data, where the files beside the rooms carry them all.
DATA_FLOORS = {
    "": 0,
    "storage": 1, "datasets": 1, "survey": 1, "forge": 1,
    "conversations": 2,
    "prepare": 3, "shards": 3, "samples": 3,
}  # fmt: skip
LIGHT = ("errors", "questions", "explanations", "verdict", "progress", "files", "config", "media", "data", "report")
LIGHT += ("http_calls", "uploads", "client")
HEAVY = {"torch", "transformers", "peft", "accelerate"}
NEVER = {"torchvision", "timm", "decord", "mmcv", "pickle", "gradio"}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file: Path):
    """(module, whether at the top of the file) of every import, relative ones made absolute."""
    tree = ast.parse(file.read_text("utf-8"))
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    typing_only = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, top
        elif isinstance(node, ast.ImportFrom):
            package = ["internvl_detect", *file.relative_to(PACKAGE).parts[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), top


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", [f for f in FILES if f.parent != PACKAGE or f.stem != "__init__"], ids=room_of)
def test_arrows_between_rooms_point_one_way(file):
    room = room_of(file)
    for module, _ in imports_of(file):
        parts = module.split(".")
        if parts[0] != "internvl_detect" or len(parts) < 2 or parts[1] == room:
            continue
        assert parts[1] in FLOORS, f"{module}: a room without a floor"
        assert FLOORS[parts[1]] < FLOORS[room], f"{file.name} ({room}) imports {module}"


def test_arrows_between_the_rooms_of_data_point_one_way():
    data = PACKAGE / "data"
    for file in sorted(data.rglob("*.py")):
        room = "" if file.parent == data else file.parent.name
        for module, _ in imports_of(file):
            parts = module.split(".")
            if parts[:2] != ["internvl_detect", "data"] or len(parts) < 3:
                continue
            other = parts[2] if (data / parts[2]).is_dir() else ""
            assert other == room or DATA_FLOORS[other] < DATA_FLOORS[room], f"{file} imports {module}"


def test_light_rooms_load_no_torch_and_nothing_forbidden_is_imported_anywhere():
    for file in FILES:
        for module, _ in imports_of(file):
            root = module.split(".")[0]
            assert root not in NEVER, f"{file} imports {module}"
            assert not (room_of(file) in LIGHT and root in HEAVY), f"{file} imports {module}"


@pytest.mark.parametrize(
    "module",
    [
        "internvl_detect",
        "internvl_detect.cli",
        "internvl_detect.media.image",
        "internvl_detect.data.conversations.check",
    ]
    + ["internvl_detect.config", "internvl_detect.detect", "internvl_detect.report"],
)
def test_importing_it_loads_no_torch(module):
    code = f"import {module}, sys; sys.exit(sum(m in sys.modules for m in {sorted(HEAVY)!r}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_of_the_package_exists():
    import internvl_detect

    for name in internvl_detect.__all__:
        assert getattr(internvl_detect, name) is not None
    with pytest.raises(AttributeError):
        _ = internvl_detect.nothing_of_this_name


def test_every_file_opens_with_what_it_is_and_keeps_to_one_thing():
    for file in FILES:
        text = file.read_text("utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{file} has no docstring"
        assert len(text.splitlines()) <= 350, f"{file} is long: a room for one thing?"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_names_a_machine_s_paths_or_runs_a_stranger_s_code():
    bad = re.compile(r"/(w" r"ork|r" r"oot|f" r"arm)/|trust_remote_code\s*=\s*True|weights_only\s*=\s*False")
    for file in tracked():
        if file.suffix in (".py", ".sh", ".md", ".yaml", ".toml", ".json", ".txt", ".j2") and file.is_file():
            found = bad.search(file.read_text("utf-8"))
            assert not found, f"{file.relative_to(ROOT)}: {found}"


def test_links_in_the_documents_lead_somewhere():
    for file in tracked():
        if file.suffix != ".md" or not file.is_file():
            continue
        text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target or target.startswith(("#", "mailto:")):
                continue
            path = target.split("#")[0]
            assert (file.parent / path).exists(), f"{file.relative_to(ROOT)} links to {target}"


def test_the_exit_codes_of_the_page_are_those_of_the_errors():
    from internvl_detect import errors

    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    said = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.M)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.IvdetectError)]
    real = {c.exit_code for c in classes} | {v for k, v in vars(errors).items() if k.startswith("EXIT_")}
    assert said == real
