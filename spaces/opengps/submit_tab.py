"""The tab Submit: one's own microscopy beside what deepGPS draws, and, with the owner's consent, kept as data."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pictures
import submit
from service import InputError
from store import LABELS, LICENCE, MAX_CROPS

from protloc import ASSETS
from protloc.crops import overlay

CONCURRENCY = 2  # submissions at a time; the others queue
CHANNELS = ["grey", "red", "green", "blue"]
INTRO = f"""
Send a microscope image of a nuclear stain and one of a tagged or stained protein. Whole cells are cut out of them and
set beside what deepGPS draws for the same nuclei. **Compare** keeps nothing. **Submit** keeps the cells (up to
{MAX_CROPS} of an image): a maintainer looks at them, and then they are published as data for the next model to learn.
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
MEASURED = json.loads((ASSETS / "deepgps" / "evaluation.json").read_text())["evaluations"]["regression"]["images"]
AVERAGE = {name: MEASURED["methods"]["model"][name]["mean"] for name in submit.SHOWN_SCORES}
LEGEND = f"""
Every image is stretched to its own brightest parts. Over each other: yours in yellow, the drawing in blue, white where
they agree. *PSNR* and *SSIM* compare pixel by pixel, *correlation* says whether the same places are bright (1: the
same, 0: no relation). On cells that it had not seen, the model reached {AVERAGE["psnr"]:.1f} dB,
{AVERAGE["ssim"]:.2f} and {AVERAGE["pearson"]:.2f} on average.
"""
Found = dict[str, Any]


def table(found: list[Found]) -> tuple[list[str], list[list[Any]]]:
    header = ["image", "cells", "PSNR (dB)", "SSIM", "correlation", "result"]
    lines = []
    for row in found:
        scores = [round(row["scores"][name], 3) for name in submit.SHOWN_SCORES] if "scores" in row else [None] * 3
        lines.append([row["name"], row.get("cells", 0), *scores, row["status"]])
    return header, lines


def show(found: list[Found], name: str | None = None) -> list[Any]:
    """Pictures of one submission, by default the first: yours, the drawing, one over the other, and the cells drawn."""
    shown = [row for row in found if "pictures" in row and name in (None, row["name"])]
    if not shown:
        return [None, None, None, []]
    cells = [[image / 255 for image in images] for images in shown[0]["pictures"]]
    nucleus, protein, drawn = cells[0]
    return [
        pictures.overlay(nucleus, protein),
        pictures.overlay(nucleus, drawn),
        pictures.picture(overlay(pictures.stretched(drawn), pictures.stretched(protein))),
        [
            (pictures.overlay(nucleus, image), f"{of}, cell {i}")
            for i, (nucleus, protein, drawn) in enumerate(cells, start=1)
            for of, image in (("yours", protein), ("drawn", drawn))
        ],
    ]


def run(keep: bool, consent, archive, *one, progress) -> Iterator[tuple]:
    """Rows as they come: state, table, progress."""
    try:
        if keep:
            submit.check_licence(LICENCE if consent else "")
        found: list[Found] = []
        for row in submit.examine(read(archive, *one), keep):
            found.append(row)
            progress((len(found), None), unit="images")
            yield found, gr.Dataframe(visible=False), f"{len(found)} checked."
        submit.deliver(found)
    except InputError as error:
        raise gr.Error(str(error), title="Please check the input", duration=None, print_exception=False) from None
    header, lines = table(found)
    said = found[0]["status"]
    if len(found) > 1:
        count = Counter(row["status"].split(":")[0].split(";")[0] for row in found)
        said = f"{', '.join(f'{name}: {number}' for name, number in count.items())}. The table has the reasons."
    yield found, gr.Dataframe(lines, headers=header, visible=True), said


def read(archive, nucleus, nucleus_channel, nucleus_page, protein, protein_channel, protein_page, *said):
    """What was filled in, as `submit.examine` takes it."""
    if archive:
        return submit.read_archive(archive)
    if not nucleus:
        raise InputError("Choose an image of the nuclei, or a ZIP file.")
    names = ["um_per_px", "sequence", "gene", "uniprot_id", "cell_line", "labels", "credit"]
    given = dict(zip(names, said, strict=True)) | {"nucleus_channel": nucleus_channel, "nucleus_page": nucleus_page}
    given |= {"protein_channel": protein_channel, "protein_page": protein_page, "labels": "|".join(said[5] or [])}
    return iter([(Path(nucleus).name[:80], submit.read_submission(given, nucleus, protein or nucleus))])


def submit_images(
    file: str,
    protein: str | None = None,
    sequence: str = "",
    cell_line: str = "",
    licence: str = "",
    labels: str = "",
    gene: str = "",
    uniprot_id: str = "",
    credit: str = "",
    um_per_px: float = 0.206,
    nucleus_channel: str = "grey",
    protein_channel: str = "grey",
    nucleus_page: int | None = None,
    protein_page: int | None = None,
) -> tuple[list[Found], Any]:
    """
    Compare microscope images of a protein with what deepGPS draws, and give them to openGPS if their owner agrees.

    Args:
        file: Image of the nuclear stain (PNG, TIFF or JPEG), or a ZIP file with images and a manifest.csv.
        protein: Image of the protein in the same field; without it, another channel or page of the first file.
        sequence: The protein's amino-acid sequence in one-letter codes.
        cell_line: Which cells these are, such as U-2 OS.
        licence: "CC BY 4.0" if the owner of the images agrees that they are published under it; otherwise nothing is
            kept, and the images are only compared.
        labels: Where the protein is seen, in the terms of the Human Protein Atlas, joined by "|".
        gene: The gene's symbol.
        uniprot_id: The UniProt accession.
        credit: Whom to name as the source.
        um_per_px: Size of a pixel in micrometres.
        nucleus_channel: "grey", or "red", "green" or "blue" of a colour image.
        protein_channel: The same for the protein.
        nucleus_page: Page, where a file has several, from 0.
        protein_page: The same for the protein.

    Returns:
        For each pair of images whether it was received or why not, the number of cells, and PSNR, SSIM and correlation
        with the drawing; and a picture of the first, the image in yellow and the drawing in blue.
    """
    said = [um_per_px, sequence, gene, uniprot_id, cell_line, (labels or "").split("|"), credit]
    try:
        if licence:
            submit.check_licence(licence)
        archive = file if str(file).lower().endswith(".zip") else None
        images = [file, nucleus_channel, nucleus_page, protein, protein_channel, protein_page]
        found = list(submit.examine(read(archive, *images, *said), keep=bool(licence)))
        submit.deliver(found)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    public = ("name", "id", "status", "cells", "scores")
    return [{name: row[name] for name in public if name in row} for row in found], show(found)[2]


def build() -> None:
    """The tab's content, inside of a `gr.Tab`."""
    hidden: dict[str, Any] = {"api_visibility": "private"}
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
                nucleus_page = gr.Number(None, label="Page of the nuclei, from 0", precision=0, minimum=0)
                protein_channel = gr.Radio(CHANNELS, value="grey", label="Channel of the protein")
                protein_page = gr.Number(None, label="Page of the protein, from 0", precision=0, minimum=0)
            um_per_px = gr.Number(
                0.206, label="Size of a pixel in micrometres", info="The microscope's software says it."
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
                archive = gr.File(label="ZIP file", type="filepath", height=120, elem_id="own-zip")
            consent = gr.Checkbox(False, label=CONSENT, elem_id="consent")
            with gr.Row():
                look = gr.Button("Compare", elem_id="compare")
                send = gr.Button("Submit", variant="primary", elem_id="submit")
        with gr.Column(scale=3, min_width=320):
            status = gr.Markdown(elem_id="submit-status")
            results = gr.Dataframe(
                interactive=False, visible=False, label="Results: click a row", elem_id="submit-results"
            )
            with gr.Row():
                own = gr.Image(
                    format="png", label="Yours: protein (yellow) on nucleus (blue)", interactive=False, elem_id="own"
                )
                drawn = gr.Image(format="png", label="Drawn by deepGPS on your nucleus", interactive=False)
                both = gr.Image(
                    format="png", label="Yours (yellow) over the drawing (blue)", interactive=False, elem_id="both"
                )
            cells = gr.Gallery(format="png", label="Cells that were cut out", columns=4, height=360)
            gr.Markdown(LEGEND)

    inputs = [consent, archive, nucleus, nucleus_channel, nucleus_page, protein, protein_channel, protein_page]
    inputs += [um_per_px, sequence, gene, uniprot_id, cell_line, labels, credit]
    limit: dict[str, Any] = {"concurrency_limit": CONCURRENCY, "concurrency_id": "submit"}
    for button, keep in ((look, False), (send, True)):

        def going(*values, keep=keep, progress=gr.Progress()):  # noqa: B008
            yield from run(keep, *values, progress=progress)

        button.click(going, inputs, [found, results, status], **limit, **hidden).then(
            show, found, [own, drawn, both, cells], **hidden
        )

    def pick(found, event: gr.SelectData):
        return show(found, event.row_value[0])

    results.select(pick, found, [own, drawn, both, cells], **hidden)

    # For programs: the same with a default for everything but the first argument
    text = [gr.Textbox("", visible=False) for _ in range(7)]
    rest = [
        gr.File(None, visible=False, type="filepath"),
        *text,
        gr.Number(0.206, visible=False),
        *(gr.Textbox("grey", visible=False) for _ in range(2)),
        *(gr.Number(0, visible=False, precision=0) for _ in range(2)),
    ]
    gr.Button(visible=False).click(
        submit_images,
        [gr.File(visible=False, type="filepath"), *rest],
        [gr.JSON(visible=False), gr.Image(visible=False, format="png")],
        api_name="submit",
        **limit,
    )
