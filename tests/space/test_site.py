"""The site as people and programs meet it: a real server, a real browser, `gradio_client` and plain HTTP."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from transformers import pipeline

from protloc.microscopy import simulate
from protloc.sequences import read_fasta
from tests.helpers import ROOT
from training.common.cards import INSULIN, SV40_SIGNAL

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUCLEUS = ROOT / "examples" / "nucleus.tif"
REVIEW = [sys.executable, ROOT / "spaces" / "opengps" / "review.py"]


@contextlib.contextmanager
def serving(folder, **environment):
    """The site on the shipped models, offline: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "files"), "TMPDIR": str(folder)}
    command = [sys.executable, ROOT / "spaces" / "opengps" / "app.py", "--port", str(port)]
    with (
        open(folder / "log", "a") as log,
        subprocess.Popen(command, cwd=folder, env=os.environ | env | environment, stdout=log, stderr=log) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    urllib.request.urlopen(url)
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield url, server
        finally:
            server.kill()  # open streams would keep it from ending


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the site runs, and keeps what is submitted."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def site(folder) -> str:
    """Its address."""
    with serving(folder) as (url, server):
        yield url
        assert server.poll() is None


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> dict[str, Path]:
    """A simulated field of a nuclear protein: two TIFF files."""
    folder = tmp_path_factory.mktemp("field")
    simulated = simulate("nucleoplasm", size=240, seed=4)
    for name in ("nucleus", "protein"):
        image = getattr(simulated, name)
        Image.fromarray(np.round(image / image.max() * 60_000).astype(np.uint16)).save(folder / f"{name}.tif")
    return {name: folder / f"{name}.tif" for name in ("nucleus", "protein")}


@pytest.fixture(scope="module")
def client(site) -> Client:
    return Client(site, verbose=False)


def test_a_protein_for_a_program(client):
    found, picture = client.predict(INSULIN, api_name="/predict")
    expected = pipeline("protein-localization")(INSULIN)
    assert found["localizations"] == expected["localizations"]
    assert found["scores"] == pytest.approx(expected["scores"], abs=0.02)  # the site computes in bfloat16 where it can
    assert found["image_label"] in found["image_scores"] and Image.open(picture).size == (208, 208)
    options = {"nucleus": handle_file(NUCLEUS), "model": "DeepLoc: compartments", "threshold": 0.05, "samples": 1}
    found, picture = client.predict(f">ins\n{INSULIN}", **options, api_name="/predict")
    assert picture is None and len(found["localizations"]) > len(expected["localizations"])


def test_a_file_for_a_program(client):
    rows, archive = client.predict(handle_file(ROOT / "examples" / "proteins.fasta"), api_name="/predict_batch")
    assert [row["id"] for row in rows] == [name for name, _ in read_fasta(ROOT / "examples" / "proteins.fasta")]
    with zipfile.ZipFile(archive) as files:
        assert len([name for name in files.namelist() if name.endswith(".tif")]) == 12


def submitted(folder) -> list[list[str]]:
    """What a maintainer is shown: a row for each pending submission."""
    command = [*REVIEW, "list", folder / "submissions"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()[1:]]


def test_images_of_a_program(client, folder, field):
    about = {"protein": handle_file(field["protein"]), "sequence": SV40_SIGNAL, "cell_line": "U-2 OS"}
    (found,), picture = client.predict(handle_file(field["nucleus"]), **about, api_name="/submit")
    assert found["cells"] == 1 and found["scores"]["psnr"] > 0 and Image.open(picture).size == (208, 208)
    assert found["status"] == "Compared; nothing is kept." and not (folder / "submissions").exists()
    about |= {"licence": "CC BY 4.0", "labels": "Nucleoplasm", "credit": "<script>alert(1)</script>"}
    (found,), _ = client.predict(handle_file(field["nucleus"]), **about, api_name="/submit")
    assert found["status"].startswith("Received")
    assert [row[0] for row in submitted(folder)] == [found["id"]]
    (again,), _ = client.predict(handle_file(field["nucleus"]), **about, api_name="/submit")
    assert again["status"].startswith("These images were sent before: they are kept once")
    assert len(submitted(folder)) == 1
    subprocess.run([*REVIEW, "approve", folder / "submissions", found["id"]], check=True)
    assert submitted(folder) == []


def test_what_was_received_outlives_the_server(tmp_path, field):
    about = {"protein": handle_file(field["protein"]), "sequence": SV40_SIGNAL, "cell_line": "U-2 OS"}
    with serving(tmp_path) as (url, server):
        client = Client(url, verbose=False)
        (found,), _ = client.predict(handle_file(field["nucleus"]), **about, licence="CC BY 4.0", api_name="/submit")
        server.kill()
        server.wait()
    assert [row[0] for row in submitted(tmp_path)] == [found["id"]]


def test_a_site_that_can_keep_nothing_says_so(tmp_path, hub):
    hub.add("owner/cells-pending", {}, "dataset")  # public
    command = [sys.executable, ROOT / "spaces" / "opengps" / "app.py"]
    env = os.environ | {"OPENGPS_SUBMISSIONS": "owner/cells"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("openGPS: owner/cells-pending is public")


def test_the_snippet_of_the_readme(site, monkeypatch, tmp_path, capsys, field):
    snippet = (ROOT / "spaces" / "opengps" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for path in (ROOT / "examples" / "proteins.fasta", *field.values()):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet.replace("OWNER/opengps", site), {})
    out = capsys.readouterr().out
    assert "['Nucleus']" in out and "Compared; nothing is kept." in out


def test_the_defaults_are_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/predict", "/predict_batch", "/submit"}
    for name, endpoint in endpoints.items():
        first, *rest = endpoint["parameters"]
        assert not first["parameter_has_default"] and all(parameter["parameter_has_default"] for parameter in rest)
        if name != "/submit":
            assert [parameter["parameter_name"] for parameter in rest] == ["nucleus", "model", "threshold", "samples"]


def test_tools_for_assistants(site):
    """Descriptions that say what a tool is for and what it takes."""
    with urllib.request.urlopen(f"{site}/gradio_api/mcp/schema") as response:
        tools = {tool["name"]: tool for tool in json.load(response)}
    assert len(tools) == 3
    for tool in tools.values():
        assert tool["description"].startswith(("Where in the cell", "Compare microscope images"))
        properties = tool["inputSchema"]["properties"]
        assert all(about.get("description") for about in properties.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Paste a protein sequence, or choose a file."),
        ("A" * 10_000_000, "The input is longer than 1,000,000 characters: send it in parts."),
        ("".join(f">p{i}\nMKV\n" for i in range(100_000)), "The input is longer than"),
        (">a\nMKV\n>b\nMKV", "2 proteins: /predict takes one"),
        ("MK\x00V", "is not an amino-acid code"),
        (["MKV"], ""),
        ({"text": "MKV"}, ""),
    ],
    ids=["empty", "10 MB", "100,000 records", "two", "control characters", "list", "object"],
)
def test_hostile_text(client, text, said):
    with pytest.raises((AppError, ValueError)) as error:
        client.predict(text, api_name="/predict")
    assert said in str(error.value) and "Traceback" not in str(error.value)
    assert client.predict(SV40_SIGNAL, api_name="/predict")[0]["localizations"] == ["Nucleus"]


def test_hostile_files(client, tmp_path):
    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    with pytest.raises(AppError):
        client.predict(handle_file(tmp_path / "page.html"), api_name="/predict_batch")
    Image.new("L", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(AppError, match="The image of the nucleus: "):
        client.predict(SV40_SIGNAL, nucleus=handle_file(tmp_path / "bomb.png"), api_name="/predict")
    with pytest.raises(AppError):  # a path of the server's own files
        path = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        client.predict(path, api_name="/predict_batch")
    with pytest.raises(AppError, match="There is no model"):
        client.predict(SV40_SIGNAL, model="../../etc", api_name="/predict")
    with pytest.raises(AppError, match="The ZIP file can't be read"):
        (tmp_path / "a.zip").write_text("no ZIP file")
        client.predict(handle_file(tmp_path / "a.zip"), api_name="/submit")
    with pytest.raises(AppError, match="Nucleus and protein are the same image"):
        client.predict(handle_file(NUCLEUS), sequence=SV40_SIGNAL, cell_line="x", api_name="/submit")
    assert client.predict(SV40_SIGNAL, api_name="/predict")[0]["localizations"] == ["Nucleus"]


def test_many_at_once(client):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.predict(SV40_SIGNAL, api_name="/predict")[0], range(40)))
    assert all(answer == answers[0] for answer in answers)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("PROTLOC_BROWSER") == "required":
            pytest.fail("there is no chromium, and PROTLOC_BROWSER=required")
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, site, width=1280, height=900, **options):
    """A page, and the requests that it sent elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    elsewhere: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((site, "data:", "blob:")) else elsewhere.append(request.url),
    )
    page.set_default_timeout(60_000)
    page.goto(site)
    expect(page.locator("#predict")).to_be_visible()
    return page, elsewhere


def test_from_a_sequence_to_a_picture_for_a_slide(browser, site, tmp_path):
    page, elsewhere = open_page(browser, site, accept_downloads=True)
    page.fill("#sequence textarea", f">insulin\n{INSULIN}\n>signal\n{SV40_SIGNAL}")
    page.click("#predict")
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
    expect(page.locator("#status")).to_contain_text("2 of 2 done.")
    expect(page.locator("#title")).to_contain_text("insulin")
    expect(page.locator("#title")).to_contain_text("Extracellular")
    page.locator("#results").get_by_text("signal", exact=True).last.click()
    expect(page.locator("#title")).to_contain_text("Nucleus")
    expect(page.locator("#zip")).to_be_visible(timeout=30_000)
    with page.expect_download() as download:
        page.click("#zip")
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        names = archive.namelist()
        overlay = next(name for name in names if name.startswith("images/insulin") and name.endswith("overlay.png"))
        pixels = np.asarray(Image.open(archive.open(overlay)))
    assert pixels.shape == (208, 208, 3) and pixels.std() > 10
    assert elsewhere == []  # no fonts, scripts or counters of others
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)
    page.close()


def test_own_images_beside_the_drawing_and_sent(browser, site, folder, field, tmp_path):
    """The way of Submit: images, comparison, refusal without consent, consent, and what the maintainer sees."""
    page, elsewhere = open_page(browser, site)
    page.get_by_role("tab", name="Submit").click()
    mirrored = [tmp_path / f"{name}.png" for name in field]  # another image than those of the other tests
    for path, source in zip(mirrored, field.values(), strict=True):
        Image.open(source).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    page.set_input_files("#own-nucleus input[type=file]", mirrored[0])
    page.set_input_files("#own-protein input[type=file]", mirrored[1])
    expect(page.get_by_text("protein.png")).to_be_visible()
    page.fill("#own-sequence textarea", SV40_SIGNAL)
    page.click("#compare")
    expect(page.get_by_text("No cell line: say which cells these are")).to_be_visible(timeout=30_000)
    page.locator("#cell-line").locator("input, textarea").fill("U-2 OS")
    page.click("#compare")
    expect(page.locator("#both img")).to_be_visible(timeout=60_000)
    expect(page.locator("#submit-status")).to_contain_text("Compared; nothing is kept.")
    page.click("#submit")
    expect(page.get_by_text("Images are kept under CC BY 4.0 only")).to_be_visible(timeout=30_000)
    before = submitted(folder) if (folder / "submissions").exists() else []
    page.check("#consent input")
    page.click("#submit")
    expect(page.locator("#submit-status")).to_contain_text("Received: nobody else sees it", timeout=60_000)
    (new,) = [row for row in submitted(folder) if row not in before]
    assert "U-2 OS" in new
    other, _ = open_page(browser, site)  # another visitor sees nothing of it
    other.get_by_role("tab", name="Submit").click()
    assert new[0] not in other.content() and other.locator("#both img").count() == 0
    other.close()
    assert elsewhere == []
    page.close()


def test_submit_on_a_phone(browser, site, field):
    page, _ = open_page(browser, site, width=380, height=800, color_scheme="dark")
    page.get_by_role("tab", name="Submit").click()
    page.set_input_files("#own-nucleus input[type=file]", field["nucleus"])
    page.set_input_files("#own-protein input[type=file]", field["protein"])
    page.fill("#own-sequence textarea", SV40_SIGNAL)
    page.locator("#cell-line").locator("input, textarea").fill("U-2 OS")
    expect(page.locator("#own-protein").locator("a[download]")).to_be_visible()
    page.click("#compare")
    expect(page.locator("#both img")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.close()


def test_the_cross_assay_and_a_sorted_table(browser, site):
    page, _ = open_page(browser, site)
    page.get_by_text("cross-assay: all of them on one nucleus").click()
    page.click("#predict")
    expect(page.locator("#assay img")).to_have_count(5, timeout=60_000)
    cells = page.locator('#results [data-testid^=cell-][data-testid$="-0"]')
    assert cells.all_inner_texts() == ["O24646", "P46060", "P00890", "P08684", "P04004"]
    header = page.locator("#results [data-testid=header-0]")
    header.hover()
    header.locator("button").click()
    page.get_by_role("menuitem", name="Sort ascending").click()
    expect(cells).to_have_text(["O24646", "P00890", "P04004", "P08684", "P46060"])
    cells.nth(1).click()
    expect(page.locator("#title")).to_contain_text("P00890")  # the row that is shown there, not the one by number
    page.close()


def test_an_example_is_one_click_away(browser, site):
    page, _ = open_page(browser, site)
    page.get_by_text("nuclear: HY5").click()
    proteins = dict(read_fasta(ROOT / "examples" / "proteins.fasta"))
    expect(page.locator("#sequence textarea")).to_have_value(f">O24646 nuclear: HY5\n{proteins['O24646']}")
    page.close()


def test_a_mistake_is_said_and_nothing_else_happens(browser, site):
    page, _ = open_page(browser, site)
    page.fill("#sequence textarea", "MKV<b>1</b>")
    page.click("#predict")
    expect(page.get_by_text("is not an amino-acid code")).to_be_visible(timeout=20_000)
    assert page.locator("#overlay img").count() == 0
    page.close()


def test_html_in_a_name_stays_text(browser, site):
    page, _ = open_page(browser, site)
    page.fill("#sequence textarea", f"><img/src=x/onerror=document.title='hacked'>\n{SV40_SIGNAL}")
    page.click("#predict")
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
    page.wait_for_timeout(500)
    assert page.title() == "openGPS" and page.locator("#title img").count() == 0
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser, site, scheme):
    page, _ = open_page(browser, site, width=380, height=800, color_scheme=scheme)
    page.fill("#sequence textarea", INSULIN)
    page.click("#predict")
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
    expect(page.locator("#zip")).to_be_visible(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.close()


def test_by_keyboard(browser, site):
    page, _ = open_page(browser, site)
    page.focus("#sequence textarea")
    page.keyboard.insert_text(SV40_SIGNAL)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_contain_text("Nucleus", timeout=60_000)
    page.close()
