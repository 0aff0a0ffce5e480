"""What imports what: rpo is cheap to import, no circle, no forbidden arrow. And long files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rpo

SOURCE = Path(rpo.__file__).parent
ROOT = Path(__file__).parent.parent
LINES = 400  # of a file that gives no reason
SECONDS = 0.3  # of the processor, which other work on the machine does not count into


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """What running a module imports: not what is for type checkers, nor within functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules else node.module
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """All that each module imports, by their full names."""
    return {name: set(imports_of(ast.parse(text), set(sources))) for name, text in sources.items()}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def reached_from(graph: dict[str, set[str]], start: str) -> set[str]:
    """What importing `start` runs in the end: itself, and the packages that modules lie in, too."""
    seen, waiting = {start}, [start]
    while waiting:
        name = waiting.pop()
        package = name.rpartition(".")[0]
        new = (graph.get(name, set()) | {package or name}) - seen
        seen |= new
        waiting += new
    return seen


GRAPH = import_graph(
    {module_name(file): file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")}
)
CONFIG = sorted(name for name in GRAPH if name.startswith("rpo.config"))


def test_circles_and_arrows_are_found() -> None:
    graph = import_graph(
        {
            "a": "import b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import d",
            "b": "try:\n    from p import c\nexcept ImportError:\n    pass\n",
            "p": "",
            "p.c": "class C:\n    import a\n    def f(self):\n        import d\n",
            "d": "import torch.nn as nn\nimport a",
        }
    )
    assert graph["a"] == {"b", "typing"}
    assert graph["b"] == {"p.c"}
    assert set(circle_in(graph)) == {"a", "b", "p.c"}
    assert circle_in(graph | {"p.c": set()}) == []
    assert reached_from(graph, "d") == {"d", "torch.nn", "torch", "a", "b", "p.c", "p", "typing"}


def test_no_module_imports_itself_through_others() -> None:
    assert circle_in(GRAPH) == []


@pytest.mark.parametrize("module", ["rpo", *CONFIG])
def test_no_torch_is_imported_for(module: str) -> None:
    roots = {name.partition(".")[0] for name in reached_from(GRAPH, module)}
    assert not roots & {"torch", "diffusers", "transformers", "peft"}


def test_events_know_nothing_of_the_rest() -> None:
    assert {name for name in GRAPH["rpo.events"] if name.startswith("rpo")} <= {"rpo.errors"}


def test_whoever_writes_a_file_can_replace_it_safely() -> None:
    assert {name for name in GRAPH["rpo.replacing"] if name.startswith("rpo")} == {"rpo.errors"}
    low = [name for name in GRAPH if name.startswith(("rpo.models", "rpo.data", "rpo.config"))]
    assert len(low) > 30
    for name in low:
        assert not [other for other in GRAPH[name] if other.startswith("rpo.runs")], name


def test_importing_the_package_is_cheap() -> None:
    code = """if True:
        import sys, time
        start = time.process_time()
        import rpo
        print(time.process_time() - start, 'torch' in sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch = run.stdout.split()
    assert torch == "False"
    assert float(seconds) < SECONDS


def test_methods_training_and_rewards_are_one_short_text() -> None:
    files = [f for name in ("methods", "training", "rewards") for f in (SOURCE / name).glob("*.py")]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    assert 1000 < lines <= 1800


def is_too_long(text: str) -> bool:
    """Whether it has more than `LINES` lines, and none "Long because ..." in its docstring."""
    words = ast.get_docstring(ast.parse(text)) or ""
    reasons = [line for line in words.splitlines() if line.startswith("Long because ")]
    return len(text.splitlines()) > LINES and not reasons


def test_a_file_is_too_long_unless_its_docstring_says_why() -> None:
    lines = "x = 1\n" * (LINES - 2)
    assert not is_too_long('"""About x."""\n\n' + lines)
    assert is_too_long('"""About x."""\n\n\n' + lines)
    assert is_too_long('"""About x.\n\nLong."""\n\n\n# Long because of x\n' + lines)
    assert not is_too_long('"""About x.\n\nLong because a table is one piece.\n"""\n' + lines)


def test_no_file_is_too_long() -> None:
    folders = ("src", "tests", "benchmarks", "emojiland")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    assert [file for file in files if is_too_long(file.read_text(encoding="utf-8"))] == []
