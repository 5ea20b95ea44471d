"""What the pages say is still so: commands parse, flags and files exist, links lead somewhere."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from mmcb import __main__, cli

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
# Up to what ends a command for the shell, and what stands for more arguments.
COMMAND = re.compile(r"(?:python -m mmcb[. ]|-m mmcb\.|^ *mmcb )([^#&>]+)")
FLAG = re.compile(r"(?<![\w-])--([a-z](?:[a-z.-]*[a-z])?)(?![\w-]|\.\*)")
# Flags that the pages name of others: vLLM's, upstream's, a benchmark's.
FOREIGN = {"max-loras", "max-lora-rank", "prefill", "scaled"}
# COMMAND --FLAG (DEFAULT); what is True or False has a form with `no` too.
SNAPSHOT = (ROOT / "tests/snapshots/cli_options.txt").read_text(encoding="utf-8").splitlines()
FLAGS = {line.split()[1][2:] for line in SNAPSHOT} | {"help", "config", "version"}
FLAGS |= {
    f"no-{line.split()[1][2:]}" for line in SNAPSHOT if line.endswith((": True)", ": False)"))
}


def _commands(page: Path) -> list[str]:
    """Whole commands of mmcb in code blocks, without what runs them."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    fenced = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += re.findall(r"^ {4}(\S.*)$", text, flags=re.MULTILINE)
    found = [match[1] for match in map(COMMAND.search, lines) if match]
    return [line.replace(" ...", "").strip() for line in found if "/path/to/" not in line]


WRITTEN = sorted({(page.name, line) for page in PAGES for line in _commands(page)})


class ParsedError(Exception):
    """Raised where a command, having read its command line, would begin."""


def _stop() -> None:
    raise ParsedError


def test_commands_are_found() -> None:
    assert len(WRITTEN) > 40


@pytest.mark.parametrize(("page", "line"), WRITTEN)
def test_command_parses(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    command = next(name for name in (".".join(words[:2]), words[0]) if name in __main__.COMMANDS)
    arguments = words[1 + (command != words[0]) :]
    name = f"mmcb.{command}"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    module = importlib.import_module(
        f"{name}.__main__" if spec.submodule_search_locations else name
    )
    monkeypatch.setattr(cli, "setup_logging", _stop)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with pytest.raises(ParsedError):
        module.main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    flags = {flag for span in code for flag in FLAG.findall(span)}
    assert sorted(flags - FLAGS - FOREIGN) == [], "no command has such a flag"
    paths = {
        span for span in code if re.fullmatch(r"(mmcb|tests|docs|benchmarks)/[a-z\d_./-]+", span)
    }
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), link
        assert not anchor or anchor in _anchors(file), link


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
