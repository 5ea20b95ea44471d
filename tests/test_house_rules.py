"""The house rules that a machine can read: sizes, docstrings, annotations, imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "mmcb").rglob("*.py"))
BASE = [
    "__main__",
    "cli",
    "config",
    "errors",
    "log",
    "record_index",
    "records",
    "run_folder",
    "store",
]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(function: Function) -> int:
    """Lines of a function without its docstring, which a rule must not make shorter."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def _public(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, prefix=f"{child.name}.")


def _unannotated(function: Function) -> list[str]:
    spec = function.args
    args = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    missing = [
        arg.arg for arg in args if arg and arg.annotation is None and arg.arg not in ("self", "cls")
    ]
    return missing if function.returns is not None else [*missing, "return"]


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_file(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    strange = sorted({character for character in source if not character.isascii()})
    assert not strange, "characters that are not ASCII"
    num_lines = len(source.splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{num_lines} lines"
    if source.strip():
        assert ast.get_docstring(tree), "no module docstring"
    long = {f.name: _length(f) for f in _functions(tree) if _length(f) > MAX_FUNCTION_LINES}
    assert not long, f"functions longer than {MAX_FUNCTION_LINES} lines"
    bare = [name for name, node in _public(tree) if not ast.get_docstring(node)]
    assert not bare, "public names without a docstring"
    untyped = {f.name: names for f in _functions(tree) if (names := _unannotated(f))}
    assert not untyped, "arguments or results without an annotation"


def test_base_and_configs_import_no_torch() -> None:
    configs = [path for path in FILES if path.name == "config.py" and path.parent.name != "mmcb"]
    modules = [f"mmcb.{name}" for name in BASE]
    modules += [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in configs]
    heavy = ("torch", "transformers", "peft", "datasets", "matplotlib")
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [heavy for heavy in {heavy} if heavy in sys.modules]\n"
        "    assert not found, f'{name} imports {found}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
