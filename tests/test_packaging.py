"""What is installed is whole: data files are packed, what is imported is declared and pinned."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmcb import __version__

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_every_data_file_goes_into_the_wheel() -> None:
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["mmcb"]
    packed = {path for pattern in patterns for path in (ROOT / "mmcb").glob(pattern)}
    files = {path for path in (ROOT / "mmcb").rglob("*") if path.is_file()}
    left_out = {path for path in files - packed if path.suffix not in (".py", ".pyc")}
    assert sorted(path.name for path in left_out) == []


def test_every_import_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    declared = _names(
        [*PROJECT["dependencies"], *extras["vllm"], *extras["server"], *extras["eval"]]
    )
    known = packages_distributions()
    undeclared = set()
    for path in (ROOT / "mmcb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for name in {module.partition(".")[0] for module in modules} - {"mmcb"}:
                # By its module's name, too: there is more than one build of vLLM.
                names = {canonicalize_name(n) for n in (name, *known.get(name, ()))}
                if name not in sys.stdlib_module_names and not names & declared:
                    undeclared.add(name)
    assert undeclared == set()


def test_what_is_declared_is_pinned_to_a_version_that_is_allowed() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.split("={2,3}", line) for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    groups = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *groups["dev"], *groups["server"], *groups["eval"]]:
        wanted = Requirement(line)
        if wanted.name != "mmcb":
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").count(f"## {__version__}") == 1
