"""
The pictures of the site in `docs/site.md`: `python -m benchmarks.site_pictures examples`.

Starts `spaces/opengps/app.py` and walks through its tabs in Chromium, on a desktop and on a phone.
"""

import argparse
import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.site import ROOT, serving, wait_for
from protloc.drawing import save_image
from protloc.microscopy import simulate

DESKTOP = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
SIGNAL = "MPKKKRKVLEDARRKSSPSPTSPAKQRRSRS"


def predict(page: Page) -> None:
    page.get_by_text("endoplasmic reticulum: CYP3A4").click()
    page.click("#predict")
    page.wait_for_selector("#zip")


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    sequence = (ROOT / "spaces" / "opengps" / "examples.fasta").read_text().split(">P00890")[1].split(">")[0]
    page.fill("#reference textarea", f">P00890{sequence}")
    page.fill("#changes textarea", "R15E+R19E, R15del")
    page.locator("#scan-from").locator("input, textarea").fill("10")
    page.locator("#scan-to").locator("input, textarea").fill("24")
    page.click("#compare-variants")
    page.wait_for_selector("#compared rect")


def submit(page: Page, folder: Path) -> None:
    field = simulate("nucleoplasm", size=240, seed=4)
    page.get_by_role("tab", name="Submit").click()
    for name in ("nucleus", "protein"):
        image = getattr(field, name)
        save_image(np.asarray(image / image.max(), dtype=np.float32), folder / name, "simulated")
        page.set_input_files(f"#own-{name} input[type=file]", folder / f"{name}.tif")
    page.fill("#own-sequence textarea", SIGNAL)
    page.locator("#cell-line").locator("input, textarea").fill("U-2 OS")
    page.locator("#own-protein").locator("a[download]").wait_for()
    page.click("#compare")
    page.wait_for_selector("#both img")


def taken(page: Page) -> Image.Image:
    """All of the page, from its top to its bottom."""
    page.wait_for_timeout(1000)
    return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


def beside(images: list[Image.Image]) -> Image.Image:
    both = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        both.paste(image, (left, 0))
        left += image.width
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where opengps.png and the others go")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with serving() as (url, server, folder), sync_playwright() as playwright:
        wait_for(url, server)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def walked(options, step, *arguments) -> Image.Image:
            page = browser.new_page(**options)
            page.set_default_timeout(240_000)
            page.goto(url)
            page.wait_for_selector("#predict")
            step(page, *arguments)
            return taken(page)

        pictures = {
            "opengps": walked(DESKTOP, predict),
            "opengps_compare": walked(DESKTOP, compare),
            "opengps_submit": walked(DESKTOP, submit, folder),
            "opengps_phone": beside(
                [walked(PHONE, predict), walked(PHONE | {"color_scheme": "light"}, submit, folder)]
            ),
        }
        for name, image in pictures.items():
            image.quantize(256).save(args.folder / f"{name}.png", optimize=True)
            print(args.folder / f"{name}.png", image.size)


if __name__ == "__main__":
    main()
