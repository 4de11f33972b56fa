"""
openGPS: where a protein is found in the cell, and how it looks there.

    python spaces/opengps/app.py                                # http://127.0.0.1:7860, on the shipped models, offline
    OPENGPS_MODELS="me/deeploc me/deepgps" python spaces/opengps/app.py      # Hub models that people may choose too
    OPENGPS_SUBMISSIONS=me/cells HF_TOKEN=... python spaces/opengps/app.py   # a Hub data set for what people submit
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pictures
import service
import submit
import submit_tab
from httpx2 import HTTPError
from service import InputError

from protloc.hub import refusal
from protloc.sequences import read_fasta

CONCURRENCY = 4  # requests of a kind at a time; the others queue
QUEUE = 200  # that may wait
MAX_COMPARED = 20  # pictures side by side
EXAMPLES = Path(__file__).with_name("examples.fasta")
INTRO = f"""
# openGPS
Paste a protein's sequence: **DeepLoc** says in which compartments of the cell it is found, and **deepGPS** draws how it
may spread in a cell whose nucleus you show (or in ours). Up to {service.MAX_PROTEINS} proteins at a time.
"""
LIMITS = """
**What this can't know.** Both models read the sequence alone, so they say where a protein can go, not where it is in
your cells today. Most of their training proteins are animal, fewer are of plants and fungi, none of bacteria. The
picture is what proteins of a compartment look like on average: it has not been seen in any microscope, has no fine
structure, and is no evidence. What you send for a prediction is used for nothing else; its files are deleted when an
hour has passed and somebody visits.
"""
KEPT = 3600  # seconds that files of a visit stay on the server
CSS = """
/* Never wider than the window, whatever a table holds: it scrolls inside. */
.gradio-container {max-width: min(1200px, 100vw) !important; margin: auto}
"""


def options(use_threshold: bool, threshold: float, samples: float) -> dict[str, Any]:
    return {"threshold": threshold if use_threshold else None, "samples": int(samples)}


def run(
    text,
    file,
    image,
    channel,
    page,
    point,
    model,
    use_threshold,
    threshold,
    samples,
    progress=gr.Progress(),  # noqa: B008
) -> Iterator[tuple]:
    """Rows as they come: state, table, progress."""
    try:
        proteins = service.read_proteins(text, file)
        nucleus = service.read_nucleus(
            image, None if channel == "grey" else channel, None if page is None else int(page)
        )
        if nucleus is not None:
            nucleus = service.cut(nucleus, *(point or (None, None)))
        rows: list[dict[str, Any]] = []
        for found in service.analyze(proteins, nucleus, model, **options(use_threshold, threshold, samples)):
            rows.append(found)
            progress((len(rows), len(proteins)), unit="proteins")
            header, lines = pictures.table(rows)
            yield rows, gr.Dataframe(lines, headers=header, visible=True), f"{len(rows)} of {len(proteins)} done."
    except InputError as error:
        raise gr.Error(str(error), title="Please check the input", duration=None, print_exception=False) from None


def show(rows: list[dict[str, Any]], protein_id: str | None, gain: float) -> list[Any]:
    """Pictures and figures of a protein, of the first by default."""
    found = next((row for row in rows if row["id"] == protein_id), rows[0] if rows else None)
    if found is None:
        return [None] * 6 + [""]
    drawn: list[Any] = [None] * 4
    title = f"### {found['id']}\n{', '.join(found['localizations']) or 'no compartment reaches its threshold'}"
    title += f" · membrane protein with probability {found['membrane']:.2f}"
    if "image" in found:
        uncertainty = None if found["uncertainty"] is None else pictures.grey(found["uncertainty"])
        drawn = [
            pictures.overlay(found["nucleus"], found["image"], gain),
            pictures.grey(found["image"], gain),
            pictures.grey(found["nucleus"]),
            gr.Image(uncertainty, visible=uncertainty is not None),
        ]
        share = max(found["image_scores"].values(), default=0)
        title += f" · picture: {found['image_label']} ({share:.2f})"
    return [*drawn, pictures.bars(found), pictures.attention(found), title]


def pick(rows, gain, event: gr.SelectData) -> list[Any]:
    protein_id = event.row_value[0]
    return [protein_id, *show(rows, protein_id, gain)]


def compare(rows: list[dict[str, Any]], gain: float) -> Any:
    """The first proteins side by side on their nucleus (deepGPS, Fig. 2e)."""
    drawn = [row for row in rows if "image" in row][:MAX_COMPARED]
    shown = [(pictures.overlay(row["nucleus"], row["image"], gain), row["id"]) for row in drawn]
    return gr.Gallery(shown, visible=len(shown) > 1)


def new_folder() -> Path:
    """A folder for files to take home; those of earlier visits go."""
    for old in Path(tempfile.gettempdir()).glob("opengps-*"):
        if time.time() - old.stat().st_mtime > KEPT:
            shutil.rmtree(old, ignore_errors=True)  # another request may be at it
    return Path(tempfile.mkdtemp(prefix="opengps-"))


def downloads(rows: list[dict[str, Any]]) -> list[Any]:
    """Files of what has been done so far, also after a stop."""
    if not rows:
        return [gr.DownloadButton(visible=False)] * 2
    folder = new_folder()
    (folder / "predictions.csv").write_text(pictures.write_csv(rows), encoding="utf-8")
    pictures.write_archive(rows, folder / "openGPS.zip")
    files = folder / "predictions.csv", folder / "openGPS.zip"
    return [gr.DownloadButton(value=str(path), visible=True) for path in files]


def preview(image: str | None, channel: str, page: float | None) -> Any:
    """The uploaded image, to click on where it is larger than what is drawn on."""
    if not image:
        return gr.Image(visible=False), None
    try:
        pixels = service.read_nucleus(
            image, None if channel == "grey" else channel, None if page is None else int(page)
        )
    except InputError as error:
        raise gr.Error(str(error), title="Please check the image", duration=None, print_exception=False) from None
    assert pixels is not None
    return gr.Image(pictures.grey(pixels - pixels.min()), visible=True), None


def choose_point(event: gr.SelectData) -> tuple[list[int], str]:
    x, y = event.index
    return [x, y], f"The square of {service.CROP} pixels around ({x}, {y}) will be drawn on."


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """What programs get of a protein."""
    names = ["id", "localizations", "scores", "thresholds", "membrane"]
    return {name: found[name] for name in names} | {
        name: found[name] for name in ("image_label", "image_scores") if name in found
    }


def analyze(proteins, nucleus, model, threshold, samples) -> list[dict[str, Any]]:
    """All proteins, on the middle of an image file."""
    image = service.read_nucleus(nucleus)
    return list(service.analyze(proteins, None if image is None else service.cut(image), model, threshold, samples))


def predict(
    text: str, nucleus: str | None = None, model: str = "default", threshold: float | None = None, samples: int = 1
) -> tuple[dict[str, Any], Any]:
    """
    Where in the cell a protein is found, from its amino-acid sequence, and a picture of it in a cell.

    Args:
        text: One protein: its amino-acid sequence in one-letter codes, or FASTA.
        nucleus: Image of a cell's nucleus to draw on (PNG or TIFF, 0.206 um a pixel); without it a standard nucleus.
        model: "default", or one of the models that the site lists.
        threshold: Probability from 0 to 1 from which a compartment counts; without it the model's own thresholds.
        samples: How many pictures a diffusion model draws.

    Returns:
        The compartments, the probability of each, the probability of a membrane protein, and the picture.
    """
    try:
        proteins = service.read_proteins(text)
        if len(proteins) > 1:
            raise InputError(f"{len(proteins)} proteins: /predict takes one, /predict_batch takes a file of them.")
        (found,) = analyze(proteins, nucleus, model, threshold, samples)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return describe(found), pictures.grey(found["image"]) if "image" in found else None


def predict_batch(
    file: str, nucleus: str | None = None, model: str = "default", threshold: float | None = None, samples: int = 1
) -> tuple[list[dict[str, Any]], str]:
    """
    Where in the cell each protein of a file is found, and pictures of them.

    Args:
        file: FASTA, CSV or TSV with up to 100 proteins.
        nucleus: Image of a cell's nucleus (0.206 um a pixel) to draw the proteins on; without it a standard nucleus.
        model: "default", or one of the models that the site lists.
        threshold: Probability from 0 to 1 from which a compartment counts; without it the model's own thresholds.
        samples: How many pictures a diffusion model draws of each.

    Returns:
        A list of results, and a ZIP file with the table and the pictures.
    """
    try:
        proteins = service.read_proteins("", file)
        rows = analyze(proteins, nucleus, model, threshold, samples)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    archive = new_folder() / "openGPS.zip"
    pictures.write_archive(rows, archive)
    return [describe(found) for found in rows], str(archive)


def build() -> gr.Blocks:
    hidden: dict[str, Any] = {"api_visibility": "private"}
    proteins = list(read_fasta(EXAMPLES, full_header=True))
    with gr.Blocks(title="openGPS", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT)) as demo:
        gr.Markdown(INTRO)
        rows, point, chosen = gr.State([]), gr.State(None), gr.State(None)
        with gr.Tab("Predict"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                text = gr.Textbox(
                    label="Protein sequence or FASTA",
                    lines=6,
                    max_lines=12,
                    placeholder="MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKT...",
                    elem_id="sequence",
                )
                start = gr.Button("Predict", variant="primary", elem_id="predict")
                stop = gr.Button("Stop", visible=False)
                examples = {header.partition(" ")[2]: f">{header}\n{sequence}" for header, sequence in proteins}
                examples["cross-assay: all of them on one nucleus"] = "\n".join(examples.values())
                gr.Examples(
                    [[fasta] for fasta in examples.values()],
                    text,
                    label="Examples: click one",
                    example_labels=list(examples),
                )
                with gr.Accordion("A file of proteins", open=False):
                    file = gr.File(label="FASTA, CSV or TSV, also .gz", type="filepath", height=120)
                with gr.Accordion("Your own nucleus, of 0.206 µm a pixel", open=False):
                    image = gr.File(label="PNG, JPEG or TIFF, 8 or 16 bit", type="filepath", height=120)
                    channel = gr.Radio(["grey", "red", "green", "blue"], value="grey", label="Channel of the nucleus")
                    page = gr.Number(None, label="Page, where a file has several, from 0", precision=0, minimum=0)
                    shown = gr.Image(
                        format="png", visible=False, interactive=False, label="Click on the nucleus to draw on"
                    )
                    where = gr.Markdown()
                with gr.Accordion("Options", open=False):
                    model = gr.Dropdown(service.MODELS, value=service.DEFAULT_MODEL, label="Model")
                    own = gr.Checkbox(False, label="One threshold for all compartments, in place of the model's own")
                    threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold")
                    samples = gr.Slider(
                        1, service.MAX_SAMPLES, 1, step=1, label="Pictures a protein (diffusion models)"
                    )
            with gr.Column(scale=3, min_width=320):
                status = gr.Markdown(elem_id="status")
                results = gr.Dataframe(
                    interactive=False,
                    visible=False,
                    label="Results: click a row; the dots in the header sort",
                    elem_id="results",
                )
                title = gr.Markdown(elem_id="title")
                with gr.Row():
                    over = gr.Image(
                        format="png", label="Protein (yellow) on nucleus (blue)", interactive=False, elem_id="overlay"
                    )
                    protein = gr.Image(format="png", label="Protein", interactive=False)
                    nucleus = gr.Image(format="png", label="Nucleus", interactive=False)
                    spread = gr.Image(format="png", label="Uncertainty", interactive=False, visible=False)
                gain = gr.Slider(0.5, 4, 1, step=0.1, label="Brightness of the protein")
                assay = gr.Gallery(
                    format="png",
                    visible=False,
                    columns=5,
                    height=180,
                    label="Cross-assay: several proteins on one nucleus",
                    elem_id="assay",
                )
                chart = gr.Plot(label="Compartments")
                along = gr.Plot(label="Which residues the answer rests on")
                with gr.Row():
                    as_csv = gr.DownloadButton("Table (CSV)", visible=False, elem_id="csv")
                    as_zip = gr.DownloadButton("All pictures and the table (ZIP)", visible=False, elem_id="zip")
        with gr.Tab("Submit"):
            submit_tab.build()
        gr.Markdown(LIMITS)

        details = [over, protein, nucleus, spread, chart, along, title]
        inputs = [text, file, image, channel, page, point, model, own, threshold, samples]
        started = start.click(lambda: (gr.Button(visible=True), None), None, [stop, chosen], queue=False, **hidden)
        going = started.then(
            run, inputs, [rows, results, status], concurrency_limit=CONCURRENCY, concurrency_id="predict", **hidden
        )
        ended = going.then(show, [rows, chosen, gain], details, **hidden)
        ended.then(compare, [rows, gain], assay, **hidden)
        ended.then(downloads, rows, [as_csv, as_zip], **hidden)
        ended.then(lambda: gr.Button(visible=False), None, stop, queue=False, **hidden)
        halted = stop.click(
            lambda: (gr.Button(visible=False), "Stopped."), None, [stop, status], cancels=[going], **hidden
        )
        halted.then(show, [rows, chosen, gain], details, **hidden).then(downloads, rows, [as_csv, as_zip], **hidden)
        results.select(pick, [rows, gain], [chosen, *details], **hidden)
        gain.release(show, [rows, chosen, gain], details, **hidden)
        for component in (image, channel, page):
            component.change(preview, [image, channel, page], [shown, point], **hidden)
        shown.select(choose_point, None, [point, where], **hidden)

        # For programs: the same with a default for everything but the first argument
        one, many = gr.Textbox(visible=False), gr.File(visible=False, type="filepath")
        rest = [
            gr.File(None, visible=False, type="filepath"),
            gr.Textbox("default", visible=False),
            gr.Number(None, visible=False),
            gr.Number(1, visible=False, precision=0),
        ]
        limit: dict[str, Any] = {"concurrency_limit": CONCURRENCY, "concurrency_id": "predict"}
        drawn = gr.Image(visible=False, format="png")
        gr.Button(visible=False).click(
            predict, [one, *rest], [gr.JSON(visible=False), drawn], api_name="predict", **limit
        )
        gr.Button(visible=False).click(
            predict_batch,
            [many, *rest],
            [gr.JSON(visible=False), gr.File(visible=False)],
            api_name="predict_batch",
            **limit,
        )
    demo.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY)
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, or the Space's)")
    parser.add_argument("--port", type=int, help="port (default: 7860)")
    args = parser.parse_args()
    service.choose("default")  # loaded once, before anybody waits for it
    try:
        print(f"Submissions go to {submit.open_store()}.")
    except (ValueError, OSError, HTTPError) as error:
        parser.exit(2, f"openGPS: {refusal(error)}\n")
    build().launch(
        server_name=args.host,
        server_port=args.port,
        mcp_server=True,
        max_file_size=submit.MAX_ARCHIVE_BYTES,
        show_error=False,
        # System fonts: nothing is loaded from elsewhere.
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        ssr_mode=False,
    )


if __name__ == "__main__":
    main()
