"""The site in Chromium, from a ``file://`` address: sort, filter, open a run and a failing query.

Skipped where Playwright or a Chromium is not installed; ``M2KR_CHROMIUM`` names one.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from leaderboard.__main__ import main
from leaderboard.pictures import MOST_BYTES, WIDTH, find_chromium
from leaderboard.site import build
from m2kr.errors import run_command
from m2kr.images.roots import parse_roots

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = find_chromium()
# Pages need no GPU made up of the processor, and no process each.
PLAIN = [
    *("--no-sandbox", "--disable-gpu", "--disable-software-rasterizer", "--renderer-process-limit=1"),
    *("--disable-extensions", "--disable-background-networking", "--disable-component-update"),
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="module")
def site(answered, built, world, tmp_path_factory):
    # A name with a blank and a folder deep: any sub-path will do.
    out = tmp_path_factory.mktemp("browser") / "a b" / "site"
    build(answered, out, data=str(built), images=parse_roots([str(world)]), quiet=True)
    return out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=PLAIN)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, site):
    """Open a page; what the console says and what is requested are checked at the end."""
    said, requested, contexts = [], [], []

    def goto(name, *, javascript=True, **options):
        context = browser.new_context(java_script_enabled=javascript, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto((site / name).as_uri())
        return page

    yield goto
    for context in contexts:
        context.close()
    assert said == []
    assert requested
    assert all(url.startswith(site.as_uri()) for url in requested)


def first_names(page, block):
    return page.locator(f"#board-{block} tbody th .who").all_inner_texts()


def names(page, block):
    return [text.split("\n")[0].removesuffix("i") for text in first_names(page, block)]


def test_a_column_is_sorted_by_mouse_and_by_keyboard(visit):
    page = visit("index.html")
    assert names(page, "official") == ["PreFLMR_ViT-G", "PreFLMR_ViT-L", "PreFLMR_ViT-B"]
    header = page.locator("#board-official th[aria-label='KVQA R@5']")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    assert names(page, "official") == ["PreFLMR_ViT-L", "PreFLMR_ViT-G", "PreFLMR_ViT-B"]
    button = header.locator("[role=button]")
    button.focus()
    page.keyboard.press("Enter")
    playwright.expect(header).to_have_attribute("aria-sort", "ascending")
    assert names(page, "official") == ["PreFLMR_ViT-B", "PreFLMR_ViT-G", "PreFLMR_ViT-L"]


def test_a_missing_figure_sorts_last(visit):
    page = visit("index.html")
    header = page.locator("#board-paper-era th[aria-label='LLaVA R@1']")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    last = page.locator("#board-paper-era tbody tr").last
    assert "–" in last.inner_text()


def test_filters_by_model_block_and_kind_of_query(visit):
    page = visit("index.html")
    page.fill("#filter-model", "ViT-L")
    assert names(page, "official") == ["PreFLMR_ViT-L"]
    page.fill("#filter-model", "")
    page.select_option("#filter-block", "ret-m2kr")
    assert not page.locator("#board-official").is_visible()
    assert page.locator("#board-ret-m2kr").is_visible()
    page.select_option("#filter-block", "")
    page.select_option("#filter-kind", "I2T")
    shown = [text.split("\n")[0] for text in page.locator("#board-official thead tr:first-child th").all_inner_texts()]
    facts = ["Mean", "Mean rank", "Year", "Licence", "Open", "Vectors", "Dim.", "Bytes", "Search"]
    assert shown == ["Model", "Size", "WIT", "IGLUE", "KVQA", *facts]
    page.select_option("#filter-kind", "")
    assert page.locator("#board-official tbody tr:first-child td").count() == 22


def test_columns_are_hidden_and_shown(visit):
    page = visit("index.html")
    page.locator(".columns summary").click()
    for name in ("licence", "bytes"):
        page.locator(f"[data-toggle={name}]").uncheck()
    shown = [text.split("\n")[0] for text in page.locator("#board-official thead tr:first-child th").all_inner_texts()]
    assert "Licence" not in shown
    assert "Bytes" not in shown
    assert "Year" in shown
    page.locator("[data-toggle=bytes]").check()
    cell = page.locator("#board-official tbody tr:first-child td:nth-last-child(2)")
    assert cell.inner_text() == "≤ 131 kB"


def test_mean_ranks_are_sorted_from_the_first(visit):
    page = visit("index.html")
    header = page.locator("#board-official th[data-column=rank]")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "ascending")
    assert names(page, "official") == ["PreFLMR_ViT-G", "PreFLMR_ViT-L", "PreFLMR_ViT-B"]


def test_figures_of_tasks_a_model_was_trained_on_are_taken_out(visit):
    page = visit("index.html")
    row = page.locator("#board-official tbody tr", has_text="ViT-G")
    before = row.locator("td").all_inner_texts()
    page.select_option("#filter-trained", "yes")
    figures = row.locator("td[data-trained]").all_inner_texts()
    assert [text.rstrip("○") for text in figures] == ["–", "71.8", *["–"] * 10]  # of IGLUE alone
    assert row.locator("td.mean").all_inner_texts() == ["–", "–"]
    assert page.locator("#board-official td.best").all_inner_texts() == ["71.8○"]
    assert not page.locator("#board-superseded tbody tr", has_text="OKVQA").first.is_visible()
    page.select_option("#filter-trained", "yes unknown")
    assert row.locator("td.best").all_inner_texts() == ["71.8○"]
    assert not page.locator("tr[data-model=first-words]").first.is_visible()  # nobody knows
    page.select_option("#filter-trained", "")
    assert row.locator("td").all_inner_texts() == before
    assert page.locator("tr[data-model=first-words]").first.is_visible()


def test_a_chosen_row_is_what_others_are_compared_with(visit):
    page = visit("index.html")
    page.select_option("#compare", "bm25")
    cell = page.locator("#board-run-made-up-no-images tr[data-model=first-words] td[data-metric='Recall@5']").first
    mark = cell.locator(".tied, .better, .worse")
    assert mark.count() == 1
    assert " points, p " in mark.get_attribute("title")
    page.select_option("#compare", "")
    assert page.locator(".better, .worse").count() == 0


def test_the_source_of_a_row_opens_and_closes(visit):
    page = visit("index.html")
    button = page.get_by_role("button", name="Source of PreFLMR_ViT-G", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    card = page.locator(".card:popover-open")
    assert "LinWeizheDragon/FLMR@be4b748 README.md" in card.inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".card:popover-open").count() == 0


def test_from_the_table_to_a_failing_query(visit):
    page = visit("index.html")
    page.locator("tr[data-model=bm25] .who a").first.click()
    assert page.locator("h1").inner_text() == "bm25"
    page.get_by_role("link", name="fail").last.click()
    page.wait_for_selector(".query")
    failing = page.locator(".query[data-state=failed]").nth(1)
    failing.locator("summary").click()
    assert failing.locator(".passages").first.is_visible()
    page.select_option("#filter-queries", "found")
    assert not failing.is_visible()
    page.fill("#filter-text", "no passage says this")
    assert page.locator("#nothing").is_visible()


def test_pictures_are_shown(visit):
    page = visit("runs/bm25/queries-OKVQA.html")
    picture = page.locator(".query[open] img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.query[open] img').naturalWidth > 0")


def test_everything_can_be_read_without_scripts(visit):
    page = visit("index.html", javascript=False)
    assert not page.locator(".filters").first.is_visible()
    assert page.locator("#board-official tbody tr").count() == 3
    assert page.locator("#board-official td.best").first.is_visible()


def test_answers_are_sorted_and_their_settings_open(visit):
    page = visit("answers.html")
    board = page.locator("#board-OKVQA-run-made-up-no-images")
    header = board.locator("th", has_text="VQA score")
    header.click()
    playwright.expect(header).to_have_attribute("aria-sort", "descending")
    figures = [float(text.split("\n")[0]) for text in board.locator("tbody td:last-child").all_inner_texts()]
    assert len(figures) == 4
    assert figures == sorted(figures, reverse=True)
    board.get_by_role("button", name="Settings of seeker, passages: bm25").click()
    assert "bm25/OKVQA.run.trec.gz" in page.locator(".card:popover-open").inner_text()


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "radar.html",
        "parameters.html",
        "storage.html",
        "answers.html",
        "runs/bm25/index.html",
        "runs/bm25/queries-OKVQA.html",
    ],
)
def test_pages_fit_a_phone_and_follow_the_colour_scheme(visit, name):
    page = visit(name, viewport={"width": 390, "height": 844}, color_scheme="light")
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour


def test_a_wide_window_shows_a_wide_table(visit):
    widths = "[document.querySelector('main').offsetWidth, document.querySelector('.lead').offsetWidth]"
    table, text = visit("index.html", viewport={"width": 1920, "height": 900}).evaluate(widths)
    assert table > 1800
    assert text < 800


def test_pictures_of_the_site_are_light(site, tmp_path, capsys):
    arguments = ["pictures", "--site", str(site), "--out", str(tmp_path), "--explorer"]
    # A process of its own: Playwright runs in this one.
    command = [sys.executable, "-m", "leaderboard", *arguments, "runs/bm25/queries-OKVQA.html"]
    assert subprocess.run(command, check=False).returncode == 0
    for name in ("leaderboard.png", "explorer.png"):
        assert (tmp_path / name).stat().st_size <= MOST_BYTES
        assert Image.open(tmp_path / name).width == WIDTH
    assert run_command(main, [*arguments, "runs/bm25/queries-WIT.html"]) == 2
    assert "queries-WIT.html is not there" in capsys.readouterr().err
