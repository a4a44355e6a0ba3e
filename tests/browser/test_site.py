"""The docs site builds without a warning, and its pages and pictures can be seen, opened from disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    for call in (["docs/generate.py"], ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]):
        done = subprocess.run([sys.executable, *call], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("name", ["index", "gallery", "how/from-python", "reference/python", "reference/first-run"])
def test_a_page_of_the_site_can_be_read(browser, site, artefacts, name, width):
    """It never scrolls sideways as a whole, has a heading, and every picture in it is really drawn."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    try:
        page.goto((site / f"{name}.html").as_uri())
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for image in page.locator("article img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("e => e.decode().then(() => e.naturalWidth)") > 100
        page.screenshot(path=artefacts / f"site-{name.replace('/', '-')}-{width}.png", full_page=True)
    finally:
        page.close()
