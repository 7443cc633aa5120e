"""The walls between the rooms: who may import whom (`.importlinter`), and what the SDK half may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "agent" / "src"
ORCHESTRATOR = ROOT / "orchestrator" / "src"
SDK = sorted(path for path in (AGENT / "ot2_agent").glob("*.py") if path.stem != "__main__")

DRIVES_THE_ROBOT = {"ot2.py", "emulator.py"}
"""The only files that may import opentrons, and only inside a function: importing it takes seconds."""


def imported(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Top-level names of the absolute imports of a file; with `at_import`, only those outside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in top_level(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from top_level(child)


def test_imports_follow_the_arrows_of_the_architecture() -> None:
    pytest.importorskip("importlinter", reason="import-linter is in the environment dev only")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--config", ".importlinter", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SDK, ids=lambda path: path.name)
def test_the_sdk_imports_nothing_but_the_standard_library(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"ot2_agent"} | ({"opentrons"} if path.name in DRIVES_THE_ROBOT else set())
    assert set(imported(path)) <= allowed
    assert "opentrons" not in set(imported(path, at_import=True))


def test_the_sdk_imports_in_a_bare_interpreter() -> None:
    names = [f"ot2_agent.{path.stem}" for path in SDK if path.stem != "__init__"]
    program = f"import sys; sys.path.append({str(AGENT)!r}); import ot2_agent, {', '.join(names)}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_orchestrator_asks_for_httpx_and_the_wire_alone() -> None:
    allowed = sys.stdlib_module_names | {"httpx", "ot2_agent", "ot2_orchestrator"}
    strangers = {
        f"{path.relative_to(ORCHESTRATOR)}: {name}"
        for path in (ORCHESTRATOR / "ot2_orchestrator").rglob("*.py")
        for name in imported(path, at_import=True)
        if name not in allowed
    }
    assert strangers == set()
