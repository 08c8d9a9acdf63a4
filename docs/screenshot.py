"""Presses "Draw" on a running page in a headless browser and makes docs/images/demo.png:

apt-get install chromium && pip install playwright
python -m ssd_jax.demo &
python docs/screenshot.py http://127.0.0.1:7860 docs/images/demo.png
"""

import sys

from playwright.sync_api import sync_playwright

BROWSER = "/usr/bin/chromium"  # Debian's
SIZE = {"width": 1100, "height": 1000}


def main(address: str, path: str) -> None:
    """Also fails if the page asks any other machine for anything."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        view = browser.new_page(viewport=SIZE)
        elsewhere = []
        view.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else elsewhere.append(asked.url),
        )
        view.goto(address)
        view.get_by_role("button", name="Draw").click()
        view.get_by_text("passes for").nth(1).wait_for(timeout=120_000)
        view.wait_for_timeout(2000)  # images arrive after the text
        view.screenshot(path=path, full_page=True)
        browser.close()
    assert not elsewhere, f"the page asked {elsewhere}"


if __name__ == "__main__":
    main(*sys.argv[1:])
