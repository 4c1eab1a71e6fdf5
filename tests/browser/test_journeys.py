"""What a reader does: from the home page to a formula, its code, a copy, a search."""

import itertools
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from formulary_site.definitions import Definitions
from formulary_site.project import Project
from formulary_site.snippets.example import expected_output
from formulary_site.snippets.sandbox import Sandbox

PROJECT = Project(Path(__file__).parents[2])
ARTICLE = "旋转式位置编码（一）：推导与布局"
CARD = "#rope-rotation-2d"


def copied(page, label: str, card: str = CARD) -> str:
    """What a button of the card puts on the clipboard, once it says that it has."""
    button = page.locator(card).get_by_role("button", name=label)
    handle = button.element_handle()
    button.click()
    page.wait_for_function("(button) => button.textContent === '已复制'", arg=handle)
    return page.evaluate("navigator.clipboard.readText()")


def test_home_lists_the_newest_first_and_leads_to_an_article(read) -> None:
    page = read().open()
    expect(page.get_by_role("heading", name="INCOMING TRANSMISSION")).to_be_visible()
    expect(page.get_by_role("heading", name="LATEST UPDATES")).to_be_visible()
    dates: list[str] = []
    current = page.locator(".md-pagination__current")
    for number in itertools.count(1):
        # A click returns before the next page stands
        expect(current).to_have_text(str(number))
        dates += [
            time.get_attribute("datetime") for time in page.locator(".md-post--excerpt time").all()
        ]
        following = page.locator(".md-pagination__current + a.md-pagination__link")
        if following.count() == 0:
            break
        following.click()
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == len(list((PROJECT.docs / "posts").rglob("*.md")))
    if page.get_by_role("link", name=ARTICLE, exact=True).count() == 0:
        page.goto(page.url.partition("page/")[0])
    page.get_by_role("link", name=ARTICLE, exact=True).click()
    expect(page).to_have_url(re.compile(r"/rope/$"))
    expect(page.get_by_role("heading", name=ARTICLE, level=1)).to_be_visible()


def test_formula_is_typeset_without_a_script(read) -> None:
    page = read(java_script_enabled=False).open("rope/")
    formula = page.locator(f"{CARD} mjx-container")
    expect(formula).to_be_visible()
    box = formula.bounding_box()
    assert box is not None
    assert box["width"] > 150
    assert box["height"] > 30
    assert page.locator(f"{CARD} mjx-assistive-mml math").count() == 1
    # Every formula and its code are in the page, and every inline formula is typeset
    cards = page.locator(".fm")
    ids = [
        card["id"]
        for card in json.loads(_published(page))
        if card["page"].endswith("rope/index.md")
    ]
    assert cards.count() == len(ids)
    assert page.locator(".fm .fm-card pre").count() == len(ids)
    assert "$" not in page.locator("article").inner_text().replace("`$", "")


def _published(page) -> str:
    return page.request.get(page.url.replace("rope/", "formulas.json")).text()


def test_math_fonts_are_loaded(read) -> None:
    page = read().open("rope/")
    page.wait_for_function("document.fonts.status === 'loaded'")
    loaded = page.evaluate(
        "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family).join()"
    )
    assert "MJX" in loaded.upper()


def test_code_opens_and_each_button_copies(read) -> None:
    page = read().open("rope/")
    definitions = Definitions.load(PROJECT)
    card = page.locator(CARD)
    expect(card.locator("pre")).to_be_hidden()
    card.locator("summary").click()
    expect(card.locator("pre")).to_be_visible()

    assert copied(page, "复制代码") == definitions["rope.derivation.rotate_pair"].source
    latex = next(e["latex"] for e in json.loads(_published(page)) if e["id"] == CARD[1:])
    assert copied(page, "复制 LaTeX") == latex
    code = copied(page, "复制可运行版本")
    with Sandbox() as sandbox:
        outcome = sandbox.run(code, expected_output(code))
    assert outcome.ok, outcome.traceback


def test_whole_script_is_compared_copied_and_downloaded(read) -> None:
    page = read().open("ddp/")
    listing = page.locator("#ddp-script")
    expect(listing.locator("pre").first).to_contain_text("+++ train_ddp.py")
    expect(listing.locator("details pre")).to_be_hidden()
    listing.locator("summary").click()
    expect(listing.locator("details pre")).to_be_visible()
    script = (PROJECT.code / "formulary/ddp/train_ddp.py").read_text("utf-8")
    assert copied(page, "复制代码", "#ddp-script details") == script
    with page.expect_download() as download:
        listing.get_by_role("link", name="下载 train_ddp.py").click()
    assert download.value.suggested_filename == "train_ddp.py"
    assert download.value.path().read_text("utf-8") == script


@pytest.mark.parametrize(
    ("query", "term", "series"),
    [
        ("RoPE", "RoPE", "rope"),
        ("旋转式位置编码", "旋转式位置编码", "rope"),
        # Articles say 旋转式位置编码; who leaves out the 式 must find them, too
        ("旋转位置编码", "位置编码", "rope"),
        ("长度外推", "长度外推", "rope"),
        # jieba alone would split 自回归 into 自 and 回归
        ("自回归模型", "自回归", "autoregressive-models"),
        ("MADE", "MADE", "autoregressive-models"),
        ("朴素贝叶斯", "朴素贝叶斯", "mnist-joint"),
        ("缺失像素", "缺失像素", "mnist-joint"),
        ("流匹配", "流匹配", "generative-models"),
        ("变分自编码器", "变分自编码器", "generative-models"),
        ("自动求导", "自动求导", "autograd"),
        ("标签平滑", "标签平滑", "nn-and-functional"),
        ("环形归约", "环形归约", "ddp"),
        ("断点续训", "断点续训", "ddp"),
    ],
)
def test_search_finds_articles(read, query: str, term: str, series: str) -> None:
    page = read().open()
    page.locator("[data-md-component=search-query]").click()
    meta = page.locator(".md-search-result__meta")
    expect(meta).not_to_contain_text("初始化", timeout=30_000)  # what is typed sooner gets lost
    page.locator("[data-md-component=search-query]").fill(query)
    page.keyboard.press("End")  # Material listens for keys, which filling in doesn't send
    # The term itself, not a piece of it
    result = page.locator(".md-search-result__item").first
    expect(result).to_contain_text(re.compile("\u200b?".join(term)), timeout=30_000)
    assert f"{series}/" in result.locator("a").first.get_attribute("href")


def test_dark_mode_swaps_the_figures(read) -> None:
    page = read(color_scheme="light").open("rope/")
    light = page.locator("#fig-rope-rotation img").first
    dark = page.locator("#fig-rope-rotation img").last
    light.scroll_into_view_if_needed()
    expect(light).to_be_visible()
    expect(dark).to_be_hidden()
    for _ in range(2):  # system → light → dark
        page.locator("form[data-md-component=palette] label:visible").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    dark.scroll_into_view_if_needed()
    expect(dark).to_be_visible()
    expect(light).to_be_hidden()
    page.wait_for_function(
        "document.querySelector('#fig-rope-rotation img:last-child').naturalWidth > 100"
    )


def test_cross_reference_leads_to_the_formula(read) -> None:
    page = read().open("rope/")
    link = page.locator("a.fm-reference[href='#rope-relative-goal']").first
    link.click()
    expect(page.locator("#rope-relative-goal")).to_be_in_viewport()


def test_notebook_page_is_readable(read) -> None:
    page = read().open("notebooks/rope/")
    expect(page.locator("article h1")).to_be_visible()
    expect(page.get_by_role("link", name="下载 notebook")).to_be_visible()
    assert page.locator(".nb-output").count() >= 3
    assert page.locator("article script, article style").count() == 0
    with page.expect_download() as download:
        page.get_by_role("link", name="下载 notebook").click()
    assert json.loads(Path(download.value.path()).read_text("utf-8"))["nbformat"] == 4
