"""What the site makes of submitted images, good and hostile, without its pages."""

import io
import struct
import zipfile

import housekeeping
import numpy as np
import pytest
import submit
import submit_tab
import tifffile
from PIL import Image
from reading import InputError
from store import FolderStore

from protloc.microscopy import simulate
from training.common.cards import SV40_SIGNAL

COLUMNS = "nucleus_image,protein_image,sequence,cell_line"
ROW = f"n.tif,p.tif,{SV40_SIGNAL},U-2 OS"


def tiff(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    pixels = np.round(image / image.max() * 60_000).astype(np.uint16)
    tifffile.imwrite(buffer, pixels, imagej=True, resolution=(1 / 0.206,) * 2, metadata={"unit": "um"})
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    field = simulate("nucleoplasm", size=240, seed=4)
    return {"n.tif": tiff(field.nucleus), "p.tif": tiff(field.protein)}


def pack(path, files: dict[str, bytes | str]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def told(path) -> list[str]:
    return [str(found) for _, found in submit.read_archive(path)]


def test_a_batch_is_compared_and_kept_once(tmp_path, images, monkeypatch):
    store = FolderStore(tmp_path / "kept")
    monkeypatch.setattr(submit, "open_store", lambda: store)
    manifest = f"\ufeff{COLUMNS};labels".replace(",", ";")
    rows = [f"n.tif;p.tif;{SV40_SIGNAL};U-2 OS;Nucleoplasm|Nucleoli", f"n.tif;gone.tif;{SV40_SIGNAL};U-2 OS;"]
    rows += [f"n.tif;p.tif;{SV40_SIGNAL};HeLa;", f"n.tif;p.tif;{SV40_SIGNAL};U-2 OS;Mars"]
    files = {f"my images/{name}": content for name, content in images.items()}
    path = pack(tmp_path / "a.zip", files | {"my images/manifest.csv": "\r\n".join([manifest, *rows])})
    found = list(submit.examine(submit.read_archive(path), keep=True))
    submit.deliver(found)
    assert [row["name"] for row in found] == ["1: n.tif", "2: n.tif", "3: n.tif", "4: n.tif"]
    first, second, third, fourth = found
    assert first["cells"] == 1 and first["scores"].keys() == {"psnr", "ssim", "pearson"}
    assert (
        first["pictures"][0][2].shape == (208, 208) and first["scores"]["pearson"] > 0.5
    )  # a nuclear protein, drawn so
    assert second["status"] == "Refused: There is no file 'my images/gone.tif' in the ZIP file."
    assert fourth["status"].startswith("Refused: There is no location 'Mars'")
    assert first["status"] == submit.RECEIVED and {*store.pending()} == {first["id"], third["id"]}
    assert third["status"] == f"{submit.RECEIVED} {submit.ONCE_MORE}" and third["id"][:16] == first["id"][:16]
    again = list(submit.examine(submit.read_archive(path), keep=True))
    assert again[0]["status"].startswith("These images were sent before: they are kept once")
    assert len(store.pending()) == 2 and "receipt" not in again[0]

    with pytest.raises(InputError, match="No submission that waits for review has this receipt"):
        submit.withdraw(f"{first['id']}-{third['receipt'].partition('-')[2]}")
    with pytest.raises(InputError, match="No submission"):
        submit.withdraw("../../etc/passwd-x")
    assert submit.withdraw(first["receipt"]).startswith("Withdrawn and deleted")
    assert store.pending() == [third["id"]]


def test_the_template_is_what_the_site_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "OWN", tmp_path / "own")
    assert "Submission" in told(submit_tab.example_archive())[0]


def test_a_manifest_from_windows(tmp_path, images):
    row = ROW.replace("n.tif", "a\\n.tif").replace("p.tif", "a\\p.tif")
    files = {f"a/{name}": content for name, content in images.items()}
    assert "Submission" in told(pack(tmp_path / "a.zip", files | {"Manifest.csv": f"{COLUMNS}\n{row}"}))[0]


def test_swapped_images_are_suspected_aloud(images):
    flat = np.zeros((240, 240), np.float32)
    flat[100, 100] = 1
    given = {"sequence": SV40_SIGNAL, "cell_line": "U-2 OS", "um_per_px": 0.206}
    submission = submit.read_submission(given, io.BytesIO(tiff(flat)), io.BytesIO(images["n.tif"]))
    with pytest.raises(InputError, match="are the two images swapped"):
        submit.compare(submission)


@pytest.mark.parametrize("pattern", ["er", "golgi", "nucleoplasm"])
def test_swapped_images_of_whole_cells_are_suspected_too(pattern):
    field = simulate(pattern, size=400, seed=1, cells=3)
    images = field.nucleus.astype(np.float32), field.protein.astype(np.float32)
    right = submit.Submission(*images, sequence=SV40_SIGNAL, cell_line="U-2 OS")
    wrong = submit.Submission(*images[::-1], sequence=SV40_SIGNAL, cell_line="U-2 OS")
    assert not submit.looks_swapped(right)
    assert submit.looks_swapped(wrong) == (pattern != "nucleoplasm")  # of a nuclear protein nobody can tell


def test_a_visitors_share_of_the_store(tmp_path, images, monkeypatch):
    monkeypatch.setattr(submit, "open_store", lambda: FolderStore(tmp_path / "kept"))
    monkeypatch.setattr(submit, "MAX_VISITOR_BYTES", 10)
    path = pack(tmp_path / "a.zip", images | {"manifest.csv": f"{COLUMNS}\n{ROW}"})
    (found,) = submit.examine(submit.read_archive(path), keep=True, visitor="a")
    assert found["status"].startswith("Refused: Your share of the room")


def test_two_channels_of_one_file(images):
    planes = [Image.open(io.BytesIO(images[name])) for name in images]
    stack = io.BytesIO()
    planes[0].save(stack, "TIFF", save_all=True, append_images=planes[1:])
    given = {"sequence": SV40_SIGNAL, "cell_line": "U-2 OS"}
    with pytest.raises(
        InputError, match=r"The image of the nucleus: holds 2 pages: say which by channel .0 to 1. or page"
    ):
        submit.read_submission(given, stack, stack)
    given |= {"nucleus_page": 0, "protein_page": 0}
    with pytest.raises(InputError, match="does not say how large its pixels are"):
        submit.read_submission(given | {"protein_page": 1}, stack, stack)
    given["um_per_px"] = 0.206
    submission = submit.read_submission(given | {"protein_page": 1}, stack, stack)
    assert np.array_equal(submission.protein, np.asarray(planes[1], dtype=np.float32))
    with pytest.raises(InputError, match="Nucleus and protein are the same image"):
        submit.read_submission(given, stack, stack)
    with pytest.raises(InputError, match="The image of the protein: has no page 2"):
        submit.read_submission(given | {"protein_page": 2}, stack, stack)
    with pytest.raises(InputError, match="The image of the protein: has no page -1; it has 2, counted from 0"):
        submit.read_submission(given | {"protein_page": -1}, stack, stack)
    with pytest.raises(InputError, match="The size of a pixel must be a number, got 'wide'"):
        submit.read_submission(given | {"um_per_px": "wide"}, stack, stack)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"x.txt": "x"}, "must hold one manifest.csv, it holds 0"),
        ({"manifest.csv": "a,b\n1,2"}, "manifest.csv has no column 'nucleus_image'"),
        ({"manifest.csv": COLUMNS}, "manifest.csv has no column 'nucleus_image', or no rows"),
        ({"manifest.csv": f"{COLUMNS},<b>\n{ROW},1"}, "manifest.csv has a column '<b>'"),
        ({"manifest.csv": COLUMNS + f"\n{ROW}" * 51}, "manifest.csv has 51 rows: send at most 50"),
        ({"manifest.csv": f"{COLUMNS}\n{ROW},x"}, "Row 1 of manifest.csv has more cells than the header"),
        ({"manifest.csv": f"{COLUMNS}\n{ROW}é".encode("latin-1")}, "manifest.csv is not in UTF-8"),
        ({"manifest.csv": b"\x00" * 2_000_000}, "manifest.csv in the ZIP file unpacks to more than 1 MB"),
    ],
)
def test_manifests_that_are_refused(tmp_path, files, said):
    with pytest.raises(InputError) as error:
        told(pack(tmp_path / "a.zip", files))
    assert said in str(error.value) and len(str(error.value)) < 400


def test_hostile_archives(tmp_path, images):
    (tmp_path / "text.zip").write_text("no ZIP file")
    with pytest.raises(InputError, match="can't be read"):
        told(tmp_path / "text.zip")
    good = pack(tmp_path / "good.zip", images | {"manifest.csv": f"{COLUMNS}\n{ROW}"})
    assert "Submission" in told(good)[0]
    (tmp_path / "cut.zip").write_bytes((tmp_path / "good.zip").read_bytes()[:-2000])
    with pytest.raises(InputError, match="can't be read"):
        told(tmp_path / "cut.zip")

    # Paths out of the folder are names like any other: nothing is written anywhere.
    outside = {"../../n.tif": images["n.tif"], "/etc/p.tif": images["p.tif"]}
    row = ROW.replace("n.tif", "../../n.tif").replace("p.tif", "/etc/p.tif")
    before = set(tmp_path.rglob("*"))
    assert "Submission" in told(pack(tmp_path / "out.zip", outside | {"manifest.csv": f"{COLUMNS}\n{row}"}))[0]
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "out.zip"}
    row = ROW.replace("n.tif", "/etc/passwd")
    path = pack(tmp_path / "passwd.zip", images | {"manifest.csv": f"{COLUMNS}\n{row}"})
    assert told(path) == ["There is no file '/etc/passwd' in the ZIP file."]

    # A file that says that it is small, and is not; and one that is as large as it says.
    bomb = images | {"n.tif": bytes(60_000_000), "manifest.csv": f"{COLUMNS}\n{ROW}"}
    path = pack(tmp_path / "bomb.zip", bomb)
    assert told(path) == ["n.tif in the ZIP file unpacks to more than 50 MB."]
    data = bytearray((tmp_path / "bomb.zip").read_bytes())
    at = data.find(struct.pack("<L", 60_000_000))
    while at >= 0:
        data[at : at + 4] = struct.pack("<L", 1000)
        at = data.find(struct.pack("<L", 60_000_000))
    (tmp_path / "liar.zip").write_bytes(data)
    (said,) = told(tmp_path / "liar.zip")
    assert "can't be unpacked" in said or "can't be read" in said

    with zipfile.ZipFile(tmp_path / "bzip2.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("manifest.csv", f"{COLUMNS}\n{ROW}")
    with pytest.raises(InputError, match=r"manifest\.csv in the ZIP file is compressed in an unusual way"):
        told(tmp_path / "bzip2.zip")

    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(20_000):
            archive.writestr(str(number), b"")
    with pytest.raises(InputError, match="lists too many files"):
        told(tmp_path / "many.zip")


def test_hostile_images_in_an_archive(tmp_path, images):
    buffer = io.BytesIO()
    Image.new("L", (6000, 6000)).save(buffer, "PNG")
    rows = [ROW.replace("n.tif", name) for name in ("large.png", "text.png", "gif.png")]
    gif = io.BytesIO()
    Image.new("L", (300, 300)).save(gif, "GIF")
    files = images | {"large.png": buffer.getvalue(), "text.png": b"<svg>", "gif.png": gif.getvalue()}
    said = told(pack(tmp_path / "a.zip", files | {"manifest.csv": "\n".join([COLUMNS, *rows])}))
    assert all(text.startswith("The image of the nucleus: ") for text in said) and len(said) == 3


def test_a_batch_has_a_limit_of_pixels(tmp_path, images, monkeypatch):
    monkeypatch.setattr(submit, "MAX_ARCHIVE_PIXELS", 240 * 240)
    path = pack(tmp_path / "a.zip", images | {"manifest.csv": f"{COLUMNS}\n{ROW}\n{ROW}"})
    first, second = told(path)
    assert first.startswith("Submission") and second.startswith(
        "The images up to this one have more than 57,600 pixels"
    )


def test_nothing_is_kept_without_consent_or_room(tmp_path, images, monkeypatch):
    with pytest.raises(InputError, match=r"under CC BY 4\.0 only"):
        submit.check_licence("MIT")
    store = FolderStore(tmp_path)
    monkeypatch.setattr(submit, "open_store", lambda: store)
    monkeypatch.setattr(submit, "MAX_WAITING_BYTES", -1)
    path = pack(tmp_path / "a.zip", images | {"manifest.csv": f"{COLUMNS}\n{ROW}"})
    with pytest.raises(InputError, match="Too many submissions wait for review"):
        list(submit.examine(submit.read_archive(path), keep=True))
    assert store.pending() == []
