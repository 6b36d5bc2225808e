"""`report.html`: what a run was, on a page that needs nothing else, also when it has failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.core.chain import finished, read, run_folder, two_stages
from tests.core.conftest import Finished

from ontogeny.report.page import Page, render

Cli = Callable[..., Any]
VOID = {"meta", "link", "br"}


class Outline(HTMLParser):
    """Checks that elements are nested well, and notes headings, anchors and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [str(found["id"])] if "id" in found else []
        target = found.get("href") or found.get("src") or ""
        if target.startswith("#"):
            self.targets.append(target[1:])
        elif target:
            self.loads.append(target)
        if tag in {"h1", "h2", "h3"}:
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass over <line/>: it opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="session")
def page(chain_run: Finished) -> Outline:
    return outline((chain_run.folder / "report.html").read_text())


def test_the_page_is_one_sound_file_that_loads_nothing(page: Outline) -> None:
    assert page.loads == ["data:,"]  # no icon is asked for
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert set(page.targets) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_it_shows_every_stage_with_its_curves_metrics_and_samples(page: Outline) -> None:
    assert {"lineage", "matrix", "stage-first", "stage-second", "budget"} <= set(page.ids)
    text = " ".join(page.text.split())
    for words in (
        *("first → second", "from random weights", "model from first"),
        *("gain on domain", "forgetting", "Mean backward transfer"),
        *("gradient_norm", "perplexity/bits_per_byte", "before after the river"),
        *("75.0%", "continued_pretraining (ontogeny 0.1.0)", "tokens/s"),
    ):
        assert words in text, words


def test_the_mixture_stands_beside_what_was_asked_for(chain_run: Finished, page: Outline) -> None:
    data = read(chain_run.checkpoint("second") / "lineage.json")["data"]
    assert [source["requested"] for source in data] == pytest.approx([0.75, 0.25])
    assert sum(source["share"] for source in data) == pytest.approx(1)
    assert f"{data[0]['share']:.1%}" in page.text
    assert all(source["tokens"] > 0 for source in data)


def test_curves_are_told_to_those_who_do_not_see_them(chain_run: Finished) -> None:
    html = (chain_run.folder / "report.html").read_text()
    labels = re.findall(r'role="img" aria-label="([^"]+)"', html)
    assert any(re.match(r"loss: loss from [\d.]+ at 0 to [\d.]+ at 1$", each) for each in labels)
    assert len(labels) == html.count("<svg")


def test_it_says_how_to_make_the_last_checkpoint_again(page: Outline) -> None:
    assert "+stage@stages.second=continued_pretraining" in page.text
    assert "hydra.run.dir=" in page.text


def test_after_a_failure_it_shows_what_was_done_and_why_it_ended(
    cli: Cli, home: Path, text_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    broken = two_stages(text_file, "stages.second.data.max_length=100")
    ended = cli(*broken, f"hydra.run.dir={run}")
    assert ended.code == 2
    shown = outline((run / "report.html").read_text())
    text = " ".join(shown.text.split())
    assert "Why it ended: data.max_length is 100, longer than the context of the model" in text
    assert "stage-first" in shown.ids
    assert "second failed" in text
    assert "gradient_norm" in text  # the curves of the stage that was done
    assert "Traceback" in text


def test_a_stage_that_is_cached_shows_its_curves_all_the_same(
    cli: Cli, home: Path, text_file: Path
) -> None:
    finished(cli, two_stages(text_file))
    folder, _ = finished(cli, two_stages(text_file))
    page = (folder / "report.html").read_text()
    assert page.count("cached") >= 2
    assert "loss: loss from" in page


SECTIONS = """
    from ontogeny import Section, hookimpl

    @hookimpl
    def ontogeny_report_sections(stage, folder):
        if stage == "first":
            points = [(0, 1.0), (1, float("nan")), (2, 3.0)]
            return [
                Section(
                    "Carbon <of> a run",
                    "One line.\\n\\nAnother & more.",
                    columns=["place", "grams"],
                    rows=[["here", 12.345678], [sorted(p.name for p in folder.iterdir())[0], None]],
                    curves={"grams": points},
                    x_label="hour",
                )
            ]
        return []
"""


def test_a_plugin_adds_a_section(
    cli: Cli, home: Path, text_file: Path, local_plugin: Callable[..., None]
) -> None:
    local_plugin("carbon", SECTIONS)
    folder, _ = finished(cli, two_stages(text_file))
    html = (folder / "report.html").read_text()
    shown = outline(html)
    assert "<h3>Carbon &lt;of&gt; a run</h3>" in html
    assert html.count("Carbon &lt;of&gt; a run</h3>") == 1  # of one stage
    assert "<p>Another &amp; more.</p>" in html
    assert "12.35" in shown.text
    assert "Carbon &lt;of&gt; a run: grams from 1 at 0 to 3 at 2" in html


def test_a_plugin_whose_section_fails_does_not_cost_the_page(
    cli: Cli, home: Path, text_file: Path, local_plugin: Callable[..., None]
) -> None:
    text = """
        from ontogeny import hookimpl

        @hookimpl
        def ontogeny_report_sections(stage):
            return 1 / 0
    """
    local_plugin("fragile", text)
    folder, _ = finished(cli, two_stages(text_file))
    page = (folder / "report.html").read_text()
    assert "This section failed: ZeroDivisionError: division by zero" in page
    assert "From fragile" in page


def test_a_page_that_cannot_be_made_does_not_cost_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status.json").write_text('{"stages": {"first": "running"}}')  # no versions in it
    Page(tmp_path).write()
    assert "report.html could not be written" in caplog.text


def test_the_page_of_an_old_run_can_be_written_anew(cli: Cli, chain_run: Finished) -> None:
    file = chain_run.folder / "report.html"
    before = file.read_text()
    assert cli("report", str(chain_run.folder)).out == f"{file}\n"
    assert file.read_text() == before == render(chain_run.folder)
    ended = cli("report", str(chain_run.text.parent))
    assert ended.code == 2
    assert "is no folder of a run: it holds no status.json" in ended.err


def test_a_run_ends_with_where_its_page_is(cli: Cli, home: Path, text_file: Path) -> None:
    folder, out = finished(cli, two_stages(text_file, "report.matrix=false"))
    assert f"report: {folder / 'report.html'}" in out.splitlines()
    assert run_folder(out) == folder
