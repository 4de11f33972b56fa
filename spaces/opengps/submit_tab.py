"""The tab Submit: one's own microscopy beside what deepGPS draws, and, with the owner's consent, kept as data."""

import asyncio
import io
import json
import zipfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import housekeeping
import lanes
import numpy as np
import pictures
import service
import submit
import verdict
from api import endpoint, saying
from PIL import Image
from predict_tab import FAULT, SCRIPT
from reading import InputError
from store import LABELS, LICENCE, MAX_CROPS

from protloc import ASSETS
from protloc.crops import overlay
from protloc.microscopy import simulate

CHANNELS = ["grey", "red", "green", "blue"]
INTRO = f"""
Send a microscope image of a nuclear stain and one of a tagged or stained protein. Whole cells are cut out of them and
set beside what deepGPS draws for the same nuclei. **Compare** keeps nothing. **Submit** keeps the cells (up to
{MAX_CROPS} of an image): a maintainer looks at them, and then they are published as data for the next model to learn.
You get a receipt, with which you can take them back until then.
"""
CONSENT = (
    f"I may share these images and put them under {LICENCE}: everybody may use them and names the source. They show no "
    "patient who could be recognised."
)
ZIP_HELP = f"""
Pack the images and a table `{submit.MANIFEST}` into one ZIP file, at most {submit.MAX_PAIRS} pairs and
{submit.MAX_ARCHIVE_BYTES // 1_000_000} MB. The table has a line for each pair:

```
nucleus_image,protein_image,sequence,cell_line,gene,labels
a_dapi.tif,a_gfp.tif,MALWMRLLPLL...,U-2 OS,INS,Endoplasmic reticulum|Vesicles
```

The first four columns are needed; further ones are {", ".join(f"`{name}`" for name in submit.OPTIONAL)}. Rows that are
wrong are listed with the reason, all others are taken.
"""
EVALUATION = json.loads((ASSETS / "deepgps" / "evaluation.json").read_text(encoding="utf-8"))
MEASURED = EVALUATION["evaluations"]["adversarial"]["images"]
AVERAGE = {name: MEASURED["methods"]["model"][name]["mean"] for name in submit.SHOWN_SCORES}
LEGEND = f"""
Every image is stretched to its own brightest parts. Over each other: yours in yellow, the drawing in blue, white where
they agree. *PSNR* and *SSIM* compare pixel by pixel, *correlation* says whether the same places are bright (1: the
same, 0: no relation). On cells that it had not seen, the model reached {AVERAGE["psnr"]:.1f} dB,
{AVERAGE["ssim"]:.2f} and {AVERAGE["pearson"]:.2f} on average.
"""
Found = dict[str, Any]


def table(found: list[Found]) -> str:
    """A line for each pair of images; their buttons show their pictures."""
    if len(found) < 2:
        return ""
    names = ["image", "cells", "PSNR (dB)", "SSIM", "correlation", "result", "receipt"]
    head = "".join(
        f'<th scope=col aria-sort="none"><button type="button" data-sort="{i}">{name}</button></th>'
        for i, name in enumerate(names)
    )
    lines = ""
    for row in found:
        scores = [f"{row['scores'][name]:.3f}" for name in submit.SHOWN_SCORES] if "scores" in row else [""] * 3
        cells = [str(row.get("cells", 0)), *scores, row["status"], row.get("receipt", "")]
        name = verdict.text(row["name"])
        lines += f'<tr><th scope=row><button type="button" data-choose="{name}">{name}</button></th>'
        lines += "".join(f"<td>{verdict.text(cell)}</td>" for cell in cells) + "</tr>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def first_shown(found: list[Found], name: str | None = None) -> Found | None:
    return next((row for row in found if "pictures" in row and name in (None, row["name"])), None)


def both(row: Found) -> Any:
    """The image in yellow over the drawing in blue, of the first cell."""
    _, protein, drawn = (image / 255 for image in row["pictures"][0])
    return pictures.picture(overlay(pictures.stretched(drawn), pictures.stretched(protein)))


def show(found: list[Found], name: str | None = None) -> str:
    """Pictures of one submission, by default the first: yours, the drawing, one over the other, and the cells drawn."""
    row = first_shown(found, name)
    if row is None:
        return ""
    cells = [[image / 255 for image in images] for images in row["pictures"]]
    nucleus, protein, drawn = cells[0]
    shown = [
        pictures.figure(
            pictures.overlay(nucleus, protein),
            "Yours: protein (yellow) on nucleus (blue)",
            "Your image of one cell",
            "own",
        ),
        pictures.figure(
            pictures.overlay(nucleus, drawn), "Drawn by deepGPS on your nucleus", "The drawing of that cell"
        ),
        pictures.figure(both(row), "Yours (yellow) over the drawing (blue)", "Both, white where they agree", "both"),
    ]
    small = [
        pictures.figure(pictures.overlay(nucleus, image), f"{of}, cell {i}", f"{of}, cell {i}")
        for i, (nucleus, protein, drawn) in enumerate(cells, start=1)
        for of, image in (("yours", protein), ("drawn", drawn))
    ]
    titles = zip(("PSNR", "SSIM", "correlation"), submit.SHOWN_SCORES, strict=True)
    scores = ", ".join(f"{title} {row['scores'][name]:.2f}" for title, name in titles)
    return (
        f'<div class="figures">{"".join(shown)}</div><p class="note">{verdict.text(row["name"])}: {scores}</p>'
        f'<div class="figures small">{"".join(small)}</div>'
    )


def said_of(found: list[Found]) -> str:
    """What became of all of it."""
    if len(found) > 1:
        count = Counter(row["status"].split(":")[0].split(";")[0] for row in found)
        return (
            f"{', '.join(f'{name}: {number}' for name, number in count.items())}. The table has reasons and receipts."
        )
    receipt = found[0].get("receipt")
    kept = (
        f" Your receipt is {receipt} . Keep it: with it you can withdraw or correct what you sent." if receipt else ""
    )
    return found[0]["status"] + kept


async def run(keep: bool, consent, archive, *one) -> AsyncIterator[tuple]:
    """Rows as they come: state, table, status, pictures, and the consent, which is asked anew each time."""
    yield [], "", verdict.status("Reading the images ..."), "", gr.skip()
    try:
        if keep:
            submit.check_licence(LICENCE if consent else "")
        found: list[Found] = []
        async for row in examined(archive, one, keep):
            found.append(row)
            yield found, gr.skip(), verdict.status(f"{len(found)} checked."), gr.skip(), gr.skip()
        await asyncio.to_thread(submit.deliver, found)
        refused = len(found) == 1 and "id" not in found[0]
        yield found, table(found), verdict.status(said_of(found), error=refused), show(found), False
    except InputError as error:
        yield [], "", verdict.status(str(error), error=True), "", gr.skip()
    except (asyncio.CancelledError, GeneratorExit, lanes.ClientGone):
        raise
    except Exception:
        housekeeping.print_places()
        yield [], "", verdict.status(FAULT, error=True), "", gr.skip()


async def examined(archive, one, keep: bool) -> AsyncIterator[Found]:
    """`submit.examine`, a step at a time; a pair is several pictures to draw, which is no small job."""
    visitor = lanes.current_visitor()
    async with lanes.job(visitor, submit.COMPARED * service.PICTURE_COST) as lane:
        pairs = await lane.run(visitor, read, archive, *one)
        iterator = submit.examine(pairs, keep, visitor)
        while (row := await lane.run(visitor, next, iterator, None)) is not None:
            yield row


def read(archive, nucleus, nucleus_channel, nucleus_page, protein, protein_channel, protein_page, *said):
    """What was filled in, as `submit.examine` takes it."""
    if archive:
        return submit.read_archive(archive)
    if not nucleus:
        raise InputError("Choose an image of the nuclei, or a ZIP file.")
    names = ["um_per_px", "sequence", "gene", "uniprot_id", "cell_line", "labels", "credit"]
    given = dict(zip(names, said, strict=True)) | {
        "um_per_px": said[0] or None,
        "nucleus_channel": nucleus_channel,
        "nucleus_page": nucleus_page,
    }
    given |= {"protein_channel": protein_channel, "protein_page": protein_page, "labels": "|".join(said[5] or [])}
    return iter([(Path(nucleus).name[:80], submit.read_submission(given, nucleus, protein or nucleus))])


async def take_back(code: str) -> str:
    """The status after a click on Withdraw."""
    visitor = lanes.current_visitor()
    try:
        async with lanes.job(visitor, 0) as lane:
            return verdict.status(await lane.run(visitor, submit.withdraw, code or ""))
    except InputError as error:
        return verdict.status(str(error), error=True)


async def submit_images(
    file: str,
    protein: str | None = None,
    sequence: str = "",
    cell_line: str = "",
    licence: str = "",
    labels: str = "",
    gene: str = "",
    uniprot_id: str = "",
    credit: str = "",
    um_per_px: float | None = None,
    nucleus_channel: str = "grey",
    protein_channel: str = "grey",
    nucleus_page: int | None = None,
    protein_page: int | None = None,
) -> tuple[dict[str, Any], Any]:
    """
    Compare microscope images of a protein with what deepGPS draws, and give them to openGPS if their owner agrees.

    Args:
        file: Image of the nuclear stain (PNG, TIFF or JPEG), or a ZIP file with images and a manifest.csv.
        protein: Image of the protein in the same field; without it, another channel or page of the first file.
        sequence: The protein's amino-acid sequence in one-letter codes.
        cell_line: Which cells these are, such as U-2 OS.
        licence: "CC BY 4.0" if the owner agrees that the images are published under it; else they are only compared.
        labels: Where the protein is seen, in the terms of the Human Protein Atlas, joined by "|".
        gene: The gene's symbol.
        uniprot_id: The UniProt accession.
        credit: Whom to name as the source.
        um_per_px: Size of a pixel in micrometres; without it what the file says.
        nucleus_channel: "grey", or "red", "green" or "blue" of a colour image.
        protein_channel: The same for the protein.
        nucleus_page: Page, where a file has several, from 0.
        protein_page: The same for the protein.

    Returns:
        An object of `images`, for each pair `status`, receipt and scores; a picture, image in yellow, drawn in blue.
    """
    with saying():
        said = [um_per_px or None, sequence, gene, uniprot_id, cell_line, (labels or "").split("|"), credit]
        if licence:
            submit.check_licence(licence)
        archive = file if str(file).lower().endswith(".zip") else None
        images = [file, nucleus_channel, nucleus_page, protein, protein_channel, protein_page]
        found = [row async for row in examined(archive, [*images, *said], bool(licence))]
        await asyncio.to_thread(submit.deliver, found)
        public = ("name", "id", "receipt", "status", "cells", "scores")
        shown = first_shown(found)
        answer = {"images": [{name: row[name] for name in public if name in row} for row in found]}
        return answer, both(shown) if shown else None


async def withdraw(receipt: str) -> dict[str, Any]:
    """
    Take back images that were given to openGPS and that nobody has approved yet.

    Args:
        receipt: What /submit answered when it received them.

    Returns:
        An object of `status`, a sentence.
    """
    with saying():
        visitor = lanes.current_visitor()
        async with lanes.job(visitor, 0) as lane:
            return {"status": await lane.run(visitor, submit.withdraw, receipt or "")}


def example_archive() -> Path:
    """A ZIP with a manifest as a template, and a simulated pair of images."""
    field = simulate("nucleoplasm", size=240, seed=4)
    path = housekeeping.OWN / "example.zip"
    path.parent.mkdir(exist_ok=True)
    row = "nucleus.tif,protein.tif,MPKKKRKVLEDARRKSSPSPTSPAKQRRSRS,simulated,,,0.206"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(submit.MANIFEST, f"{','.join(submit.REQUIRED)},gene,labels,um_per_px\n{row}\n")
        for name in ("nucleus", "protein"):
            pixels = getattr(field, name)
            buffer = io.BytesIO()
            Image.fromarray(np.round(pixels / pixels.max() * 60_000).astype(np.uint16)).save(buffer, "TIFF")
            archive.writestr(f"{name}.tif", buffer.getvalue())
    return path


def build() -> None:
    """The tab's content, inside of a `gr.Tab`."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    found = gr.State([])
    gr.Markdown(INTRO)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            nucleus = gr.File(
                label="Image of the nuclei (PNG, JPEG or TIFF, 8 or 16 bit)",
                type="filepath",
                height=120,
                elem_id="own-nucleus",
            )
            protein = gr.File(
                label="Image of the protein; without it, another channel or page of the first",
                type="filepath",
                height=120,
                elem_id="own-protein",
            )
            with gr.Accordion("Channels and pages, for colour images and stacks", open=False):
                nucleus_channel = gr.Radio(CHANNELS, value="grey", label="Channel of the nuclei")
                nucleus_page = gr.Textbox(label="Page of the nuclei, from 0", placeholder="the only one")
                protein_channel = gr.Radio(CHANNELS, value="grey", label="Channel of the protein")
                protein_page = gr.Textbox(label="Page of the protein, from 0", placeholder="the only one")
            um_per_px = gr.Textbox(
                label="Size of a pixel in micrometres",
                info="The microscope's software says it.",
                placeholder="what the file says",
                elem_id="own-um-per-px",
            )
            sequence = gr.Textbox(
                label="Protein sequence or FASTA",
                lines=3,
                max_lines=8,
                elem_id="own-sequence",
                placeholder="MALWMRL...",
            )
            cell_line = gr.Textbox(label="Cell line", placeholder="U-2 OS", elem_id="cell-line")
            with gr.Accordion("More about the protein", open=False):
                gene = gr.Textbox(label="Gene")
                uniprot_id = gr.Textbox(label="UniProt accession")
                labels = gr.Dropdown(LABELS, multiselect=True, label="Where you see it")
                credit = gr.Textbox(label="Whom to name as the source", info="Published together with the images.")
            with gr.Accordion("Many images: a ZIP file", open=False):
                gr.Markdown(ZIP_HELP)
                gr.DownloadButton("Template: a manifest and a simulated pair (ZIP)", value=str(example_archive()))
                archive = gr.File(label="ZIP file", type="filepath", height=120, elem_id="own-zip")
            look = gr.Button("Compare", elem_id="compare")
            consent = gr.Checkbox(False, label=CONSENT, elem_id="consent")
            send = gr.Button("Submit", variant="primary", elem_id="submit")
            with gr.Accordion("Withdraw or correct what you sent", open=False):
                gr.Markdown("Until a maintainer has approved it. To correct it, withdraw it and send it anew.")
                receipt = gr.Textbox(label="Receipt", elem_id="receipt")
                back = gr.Button("Withdraw", elem_id="withdraw")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="submit-status", js_on_load=verdict.ALOUD)
            results = gr.HTML(elem_id="submit-results", js_on_load=SCRIPT.read_text(encoding="utf-8"))
            shown = gr.HTML(elem_id="own-pictures")
            gr.Markdown(LEGEND)

    inputs = [consent, archive, nucleus, nucleus_channel, nucleus_page, protein, protein_channel, protein_page]
    inputs += [um_per_px, sequence, gene, uniprot_id, cell_line, labels, credit]
    for button, keep in ((look, False), (send, True)):

        async def going(*values, keep=keep):
            async for outcome in run(keep, *values):
                yield outcome

        button.click(going, inputs, [found, results, status, shown, consent], concurrency_limit=None, **hidden)

    def pick(found, event: gr.EventData):
        return show(found, str(getattr(event, "protein_id", "")))

    results.select(pick, found, shown, **hidden)
    back.click(take_back, receipt, status, **hidden)

    # For programs: the same with a default for everything but the first argument
    text = [gr.Textbox("", visible=False) for _ in range(7)]
    rest = [
        gr.File(None, visible=False, type="filepath"),
        *text,
        gr.Number(None, visible=False),
        *(gr.Textbox("grey", visible=False) for _ in range(2)),
        *(gr.Number(None, visible=False, precision=0) for _ in range(2)),
    ]
    outputs = [gr.JSON(visible=False), gr.Image(visible=False, format="png")]
    endpoint(submit_images, [gr.File(visible=False, type="filepath"), *rest], outputs, "submit")
    endpoint(withdraw, [gr.Textbox(visible=False)], [gr.JSON(visible=False)], "withdraw")
