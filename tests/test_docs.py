"""What the documents say must be so: commands compose, links lead somewhere, pages are current."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from ontogeny import _hydra
from ontogeny.cli import SUBCOMMANDS
from ontogeny.help import USAGE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Return every `ontogeny ...` command line of the documents and of the help page."""
    texts = [page.read_text() for page in PAGES]
    blocks = [
        block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    ]
    lines = "\n".join([*blocks, USAGE]).replace("\\\n", " ").splitlines()
    return sorted({line.strip() for line in lines if line.strip().startswith("ontogeny ")})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_composes(command: str) -> None:
    words = shlex.split(re.sub(r"\s{2,}\S.*$", "", command.partition(" #")[0]))[1:]
    if words[0] in {*SUBCOMMANDS, "takes"} or "[overrides]" in words:
        return
    overrides = [
        word for word in words if not word.startswith("-") and word not in {"job", "my_conf"}
    ]
    drawn = [re.sub(r"=(?:tag\(log,)?interval\(([^,]+),.*$", r"=\1", word) for word in overrides]
    single = [re.sub(r"=([^\[{']*?),.*$", r"=\1", word) for word in drawn]
    others = ("hydra/", "hydra.", "recipe=mine", "lifecycle=mine")
    known = [word for word in single if not word.startswith(others)]
    _hydra.compose_config(known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert missing == []


def test_the_page_of_options_is_current() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs" / "options.md").read_text() == generate["page"]()


def test_the_readme_opens_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["make", "demo"], ["make", "test"]]
