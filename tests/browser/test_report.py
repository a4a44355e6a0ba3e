"""The report in a real browser: opens from disk with the network cut, says nothing on the console, can be seen and read."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

WIDTHS = (360, 800, 1600)
SCHEMES = ("light", "dark")
AXE = Path(os.environ.get("AXE", ".venv/axe/package/axe.min.js"))


@pytest.fixture
def opened(browser, report, request):
    """`opened(width, scheme)` gives the page at that width, its console messages and whatever it asked the network for."""
    contexts = []

    def get(width, scheme="light", **how):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **how)
        contexts.append(context)
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(report.as_uri())
        return page, said, asked

    yield get
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_from_disk_and_fits(opened, report, artefacts, width, scheme):
    """Nothing is fetched, nothing complains, the page never scrolls sideways, every figure that is not folded away can be seen."""
    page, said, asked = opened(width, scheme)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure svg.figure")
    assert figures.count() >= 5
    for number in range(figures.count()):
        figure = figures.nth(number)
        figure.scroll_into_view_if_needed()
        box = figure.bounding_box()
        assert figure.is_visible()
        assert box["width"] > 250
        assert box["height"] > 60
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=artefacts / f"report-{width}-{scheme}.png")
    page.screenshot(path=artefacts / f"report-{width}-{scheme}-whole.png", full_page=True)


def test_the_verdict_is_the_first_thing_seen(opened):
    """On a telephone, too: headline within the first screen, in large letters, before any other figure."""
    page, _, _ = opened(360)
    headline = page.locator(".verdict .headline").first
    box = headline.bounding_box()
    assert box["y"] + box["height"] < 900
    assert page.evaluate("e => parseFloat(getComputedStyle(e).fontSize)", headline.element_handle()) >= 17


def test_texts_that_say_the_stereotype_wait_to_be_asked_for(opened):
    """Not visible until their summary is clicked; by keyboard as well."""
    page, _, _ = opened(800)
    hidden = page.locator("details:has(summary:text('Says the stereotype'))").first
    assert not hidden.locator("blockquote").is_visible()
    hidden.locator("summary").focus()
    page.keyboard.press("Enter")
    assert hidden.locator("blockquote").is_visible()


def test_every_link_of_the_page_leads_somewhere(opened):
    """Every anchor scrolls to a heading."""
    page, _, _ = opened(800)
    for link in page.locator("nav a").all():
        target = link.get_attribute("href")
        link.click()
        assert page.evaluate("location.hash") == target
        assert page.locator(target).bounding_box()["y"] < 900


def test_it_prints(opened, artefacts):
    """On paper: a few pages, and no table is wider than the sheet."""
    page, _, _ = opened(800)
    page.pdf(path=artefacts / "report.pdf", format="A4")
    assert (artefacts / "report.pdf").read_bytes().count(b"/Type /Page\n") < 30
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 990})
    assert page.evaluate("document.documentElement.scrollWidth") <= 700


def test_figures_and_regions_have_names(opened):
    """What a screen reader announces: no figure, region or table without a name, headings in order, a language."""
    page, _, _ = opened(800)
    assert page.evaluate("document.documentElement.lang") == "en"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('svg[role=img], [role=group], section, nav, article')].filter(e =>
        !(e.getAttribute('aria-label') || (e.getAttribute('aria-labelledby') || '').split(' ').some(id =>
          document.getElementById(id)?.textContent.trim())) && e.tagName != 'ARTICLE').map(e => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(e => +e.tagName[1])")
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast_of_what_is_really_drawn(opened, scheme):
    """Every visible text against the nearest ground behind it, as the browser computed both: 4.5 to 1, large letters 3 to 1."""
    page, _, _ = opened(1600, scheme)
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(opened, width, scheme):
    """The rules of axe-core, contrast and labels among them."""
    assert AXE.is_file(), "axe-core is not there: `make browser` fetches it, or name axe.min.js in AXE"
    page, _, _ = opened(width, scheme, bypass_csp=True)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.target.join(' ')).slice(0, 5)]))")
    assert found == []


CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length == 3 || c[3] == 1) return c; } return [255, 255, 255]; };
  const wrong = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), ink = parse(e.closest('svg') ? style.fill : style.color);
    const [low, high] = [light(ink), light(ground(e))].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    if ((high + 0.05) / (low + 0.05) < (large ? 3 : 4.5)) wrong.push(e.textContent.trim().slice(0, 40));
  }
  return wrong;
}"""
