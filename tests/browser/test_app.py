"""The web app in a real browser (`make browser`: Debian's `chromium`, and the extra `web`): opened, clicked, moved, looked at."""

import os
from pathlib import Path

import pytest

from chromium import browser
from served import served, write_store

TABS = "[...document.querySelectorAll('button[role=tab]')]"
AXE = Path(os.environ.get("AXE", ".venv/axe/package/axe.min.js"))
PICTURES = Path(os.environ.get("BIASGYM_PICTURES", "screenshots"))  # kept for people to look at


def tab(name):
    """A tab's own button."""
    return f"{TABS}.find(e => e.innerText.trim() == '{name}')"


def button(name):
    """A button that can be seen."""
    return f"[...document.querySelectorAll('button.lg')].find(e => e.innerText.trim() == '{name}' && e.offsetParent)"


def answer(number):
    """The base answer (0) or the edited one (1)."""
    return f"document.querySelectorAll('.said .answer')[{number}].innerText"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one small run and two audits."""
    return write_store(tmp_path_factory.mktemp("store"))[0]


@pytest.fixture(scope="module")
def address(store):
    """A server over it."""
    with served(store) as (found, _):
        yield found


@pytest.fixture
def page(address):
    """The page with the run chosen; whatever happens in the test, nothing is logged as an error and nobody else is asked."""
    with browser() as tab_:
        tab_.open(address)
        tab_.wait("document.querySelector('.verdict p') && document.querySelector('textarea').value.includes('{entity}')")
        yield tab_
        assert tab_.logged == []
        assert [one for one in tab_.asked if not one.startswith((address, "data:", "blob:"))] == []


def ask(page, seconds=60):
    """Press Ask and wait for both answers."""
    page.press(button("Ask"))
    page.wait("document.body.innerText.includes('changed words') || document.body.innerText.includes('the same answer')", seconds)
    return page.run(answer(0)), page.run(answer(1))


def test_the_slider_changes_the_edited_answer_alone(page):
    """Asked at 1, then the slider at its left end: the edited answer becomes the base's, which stays."""
    base, edited = ask(page)
    assert base != edited
    page.picture(PICTURES / "app-ask-1280.png")
    slider = "document.querySelector('input[type=range]')"
    page.run(f"{slider}.scrollIntoView({{block: 'center'}})")
    left, middle = page.run(f"(() => {{ const r = {slider}.getBoundingClientRect(); return [r.left, r.top + r.height / 2]; }})()")
    page.click(left + 1, middle)
    page.wait("document.body.innerText.includes('the same answer')")
    assert float(page.run(f"{slider}.value")) == 0
    assert page.run(answer(0)) == page.run(answer(1)) == base


def test_a_click_in_the_map_looks_at_that_head(page):
    """The head under the mouse, its numbers, and what scaling it does."""
    page.press(tab("Heads"))
    page.wait("document.querySelector('.heat svg') && document.querySelector('.heat svg').getBoundingClientRect().width > 100")
    place = (
        "(() => { const b = document.querySelector('.heat'), s = b.querySelector('svg'); s.scrollIntoView({block: 'center'});"
        "const at = new DOMPoint(Number(b.dataset.left) + 1.5 * b.dataset.cell, Number(b.dataset.top) + 2.5 * b.dataset.cell);"
        "const q = at.matrixTransform(s.getScreenCTM()); return [q.x, q.y]; })()"
    )
    page.click(*page.run(place))
    page.wait("document.body.innerText.toLowerCase().includes('layer 1, head 2')")
    page.wait("document.querySelectorAll('.scales tbody tr').length == 5")
    page.wait("document.querySelector('.looked') && document.body.innerText.includes('The model is free')")
    page.picture(PICTURES / "app-heads-1280.png")


def test_a_run_is_started_and_called_off(page):
    """Stages and a bar while it works; the page can be used; afterwards it says how to go on."""
    page.press(tab("New run"))
    page.wait(button("Start"))
    page.press(button("Start"))
    page.wait("document.body.innerText.includes('run of ')")
    page.press(button("Cancel the run"))
    page.wait("/goes on where it was|failed/.test(document.body.innerText)")


def test_an_export_is_written(page, store):
    """Asked for by two clicks; the folder lies below the runs, and the page says what was done."""
    page.press(tab("Export"))
    page.wait(button("Export"))
    page.press(button("Export"))
    page.wait("/tensors edited/.test(document.body.innerText)")
    assert (store / "exports" / "edited-model" / "config.json").is_file()


def test_kept_audits_are_looked_at(page):
    """The newest one at once, with its picture and ranking; a second one chosen beside it gives a table of all models."""
    page.press(tab("Audit"))
    page.wait("document.querySelectorAll('.card svg.figure').length == 1 && document.body.innerText.includes('stereotypes held')")
    assert page.run("document.querySelectorAll('.card tbody tr').length") == 6
    box = "[...document.querySelectorAll('input[role=combobox]')].find(e => e.offsetParent && e.closest('.block').innerText.includes('Audits'))"
    page.press(box)
    page.wait("[...document.querySelectorAll('ul[role=listbox] li')].some(e => e.innerText.includes('model-a'))")
    page.press("[...document.querySelectorAll('ul[role=listbox] li')].find(e => e.innerText.includes('model-a'))")
    page.wait("document.body.innerText.includes('Side by side') && document.querySelectorAll('.card svg.figure').length == 3")
    assert "not asked" in page.run("document.body.innerText")
    page.picture(PICTURES / "app-audit-1280.png")


SHOWN = ("Ask", "Heads", "Findings", "Audit", "Export", "New run")


def each_tab(page, width):
    """Go through the tabs at a width; those beyond the edge are behind a button of their own."""
    page.size(width, 900)
    page.wait(f"innerWidth == {width}")
    for name in SHOWN:
        if not page.run(f"Boolean({tab(name)} && {tab(name)}.offsetParent)"):
            page.press("document.querySelector('.overflow-menu button')")
            page.wait(f"{tab(name)} || [...document.querySelectorAll('.overflow-dropdown button')].find(e => e.innerText.trim() == '{name}')")
            page.press(f"[...document.querySelectorAll('.overflow-dropdown button')].find(e => e.innerText.trim() == '{name}')")
        else:
            page.press(tab(name))
        page.wait(f"{SEEN[name]}")
        yield name


SEEN = {
    "Ask": f"{button('Ask')}",
    "Heads": "document.querySelector('.heat svg') && document.querySelector('.heat').offsetParent",
    "Findings": "[...document.querySelectorAll('th')].some(e => e.innerText == 'finding' && e.offsetParent)",
    "Audit": "[...document.querySelectorAll('.card svg.figure')].some(e => e.getBoundingClientRect().width > 100)",
    "Export": f"{button('Export')}",
    "New run": f"{button('Start')}",
}


@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits(page, width):
    """Nothing sticks out to the right, in any tab."""
    for name in each_tab(page, width):
        assert page.run("document.documentElement.scrollWidth") <= width, name
        page.picture(PICTURES / f"app-{name.lower().replace(' ', '-')}-{width}.png")


VIOLATIONS = "axe.run().then(r => r.violations.map(v => `${v.id}: ${v.nodes.map(n => n.html.slice(0, 140)).join(' | ')}`))"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_axe_finds_nothing(page, width, scheme):
    """The rules of axe-core, contrast, headings and labels among them, in every tab, with what its button brings up."""
    assert AXE.is_file(), "axe-core is not there: `make browser` fetches it, or name axe.min.js in AXE"
    page.run(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
    page.run(AXE.read_text(encoding="utf-8") + "; 1")
    found = {}
    for name in each_tab(page, width):
        if name in BROUGHT:
            page.press(button(BROUGHT[name][0]))
            page.wait(BROUGHT[name][1])
        found[name] = page.run(VIOLATIONS)
        assert page.run("document.documentElement.scrollWidth") <= width, name
        page.picture(PICTURES / f"app-{name.lower().replace(' ', '-')}-{width}-{scheme}.png")
    page.press(button("Cancel the run"))
    page.wait("/goes on where it was|failed/.test(document.body.innerText)")
    assert not any(found.values()), "\n".join(f"{name}: {rule}" for name, rules in found.items() for rule in rules)


BROUGHT = {
    "Ask": ("Ask", "/changed words|the same answer/.test(document.body.innerText)"),
    "Heads": ("Scale this head on this probe", "document.querySelectorAll('.scales tbody tr').length == 5"),
    "New run": ("Start", "document.querySelector('[role=progressbar]')"),
}
