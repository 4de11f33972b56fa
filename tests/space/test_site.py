"""The site as people and programs meet it: a real server, a real browser, `gradio_client` and plain HTTP."""

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

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from transformers import pipeline

from conftest import ROOT
from protloc.cards import INSULIN, SV40_SIGNAL
from protloc.sequences import read_fasta

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUCLEUS = ROOT / "examples" / "nucleus.tif"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """Its address; offline, with the shipped models."""
    folder = tmp_path_factory.mktemp("site")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "files"), "TMPDIR": str(folder)}
    command = [sys.executable, ROOT / "spaces" / "opengps" / "app.py", "--port", str(port)]
    with open(folder / "log", "w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    urllib.request.urlopen(url)
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield url
            assert server.poll() is None
        finally:
            server.kill()  # open streams would keep it from ending


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


def test_the_snippet_of_the_readme(site, monkeypatch, tmp_path, capsys):
    snippet = (ROOT / "spaces" / "opengps" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    shutil.copy(ROOT / "examples" / "proteins.fasta", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(snippet.replace("OWNER/opengps", site), {})
    assert "['Nucleus']" in capsys.readouterr().out


def test_the_defaults_are_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/predict", "/predict_batch"}
    for endpoint in endpoints.values():
        first, *rest = endpoint["parameters"]
        assert not first["parameter_has_default"] and all(parameter["parameter_has_default"] for parameter in rest)
        assert [parameter["parameter_name"] for parameter in rest] == ["nucleus", "model", "threshold", "samples"]


def test_tools_for_assistants(site):
    """Descriptions that say what a tool is for and what it takes."""
    with urllib.request.urlopen(f"{site}/gradio_api/mcp/schema") as response:
        tools = {tool["name"]: tool for tool in json.load(response)}
    assert len(tools) == 2
    for tool in tools.values():
        assert tool["description"].startswith("Where in the cell")
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
    page.get_by_text("signal", exact=True).last.click()
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
