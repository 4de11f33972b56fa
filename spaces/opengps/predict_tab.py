"""The tab Predict: sequences in, an answer to each, and files to take home."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
import housekeeping
import keeping
import lanes
import lookup
import pictures
import reading
import service
import verdict
from reading import InputError

from protloc.sequences import read_fasta

EXAMPLES = Path(__file__).with_name("examples.fasta")
BATCH = "cross-assay: all of them on one nucleus"
SCRIPT = Path(__file__).with_name("results.js")
FAULT = "Something went wrong on our side, not with your input: please try again."
CONCURRENCY = 40  # requests of a kind that wait for a turn or compute, beside those that `lanes` orders
runs: dict[str, int] = {}  # the latest run of each page
chosen_on: dict[str, str] = {}  # the protein that is shown on each page
FEW = 5  # answers that are kept, or looked at again, in the small lane
numbers = itertools.count(1)
Row = dict[str, Any]


def examples() -> dict[str, tuple[str, str, str]]:
    """Header, sequence and known compartment of each example, by the name that its button has."""
    found = {}
    for header, sequence in read_fasta(EXAMPLES, full_header=True):
        known, _, gene = header.partition(" ")[2].partition(": ")
        found[f"{known.lower()}: {gene}"] = (header, sequence, known)
    return found


KNOWN = {sequence: known for _, sequence, known in examples().values()}


def read_image(image: str | None, channel: str, page: Any, um_per_px: Any) -> service.Nucleus | None:
    """The nucleus as the page's fields, or a program's arguments, describe it."""
    page = reading.number(page, "The page", whole=True)
    um_per_px = reading.number(um_per_px, "The size of a pixel")
    return service.read_nucleus(image, None if channel == "grey" else channel, page, um_per_px)


class Page:
    """What the outputs of a run show; what is not named stays as it is."""

    names = (
        "rows",
        "chosen",
        "status",
        "start",
        "stop",
        "results",
        "answer",
        "figures",
        "assay",
        "after",
        "csv",
        "zip",
        "keep",
        "kept",
        "owner",
        "delete",
    )

    @classmethod
    def show(cls, **values: Any) -> list[Any]:
        return [values.get(name, gr.skip()) for name in cls.names]

    @classmethod
    def empty(cls, said: str, running: bool, **values: Any) -> list[Any]:
        """Nothing of an earlier run is left."""
        blank: dict[str, Any] = {name: "" for name in ("results", "answer", "figures", "assay", "kept")}
        blank |= {name: gr.Button(visible=False) for name in ("keep", "delete")}
        blank |= {"rows": [], "chosen": None, "owner": None, "status": said, "after": gr.Group(visible=False)}
        blank |= {name: gr.DownloadButton(visible=False) for name in ("csv", "zip")}
        blank |= {"start": gr.Button("Predict anew" if running else "Predict"), "stop": gr.Button(visible=running)}
        return cls.show(**blank | values)


async def run(*values: Any) -> AsyncIterator[list[Any]]:
    """All that happens after a click on Predict, to its end, whatever that is."""
    text, file, image, channel, page, um_per_px, point, model, organism, use_threshold, threshold, samples, gain = (
        values
    )
    page_id, visitor = lanes.current_page(), lanes.current_visitor()
    latest = runs[page_id] = next(numbers)
    yield Page.empty(verdict.status("Reading the input ..."), running=True)
    rows: list[Row] = []
    skipped: list[str] = []
    try:
        in_thread = asyncio.to_thread
        proteins, skipped = await in_thread(lookup.read, text, file)
        nucleus = await in_thread(read_image, image, channel, page, um_per_px)
        if nucleus is not None:
            nucleus = nucleus._replace(pixels=service.cut(nucleus.pixels, *(point or (None, None))))
        limit = threshold if use_threshold else None
        job = await in_thread(service.prepare, proteins, nucleus, model, limit, samples, organism)
        title = proteins[0][0] if len(proteins) == 1 else f"{len(proteins)} proteins"
        yield Page.show(status=verdict.status(f"{title}: waiting for a turn ...", skipped))
        async with lanes.job(visitor, job.cost(proteins)) as lane:
            chosen_on[page_id] = proteins[0][0]
            # All that is said first, in tenths of a second a protein; pictures take seconds.
            for step, kind in ((service.said_of, "read"), (service.drawn, "drawn")):
                if step is service.drawn and not job.models.drawer:
                    continue
                for number, protein in enumerate(proteins):
                    done = await lane.run(visitor, step, protein if kind == "read" else rows[number], job)
                    if runs.get(page_id) != latest:
                        return  # Predict was clicked again: that run has the page now
                    before = rows[number] if kind == "drawn" else {}
                    rows = [*rows[:number], before | done, *rows[number + 1 :]]
                    count = f"{number + 1} of {len(proteins)} {kind}."
                    shown = {"status": verdict.status(f"{title}: {count}", skipped), "rows": rows}
                    chosen = chosen_on.get(page_id, proteins[0][0])
                    if rows[number]["protein_id"] == chosen:
                        shown |= {"chosen": chosen} | details(rows, chosen, gain, latest)
                    elif number % 5 == 0:  # a page is no film
                        shown["results"] = verdict.table(rows, chosen)
                    yield Page.show(**shown)
            said = verdict.status(f"{title}: done.", skipped)
            yield await lane.run(visitor, ending, rows, gain, said, None, chosen_on.get(page_id))
    except InputError as error:
        yield Page.empty(verdict.status(str(error), error=True), running=False)
    except (asyncio.CancelledError, GeneratorExit, lanes.ClientGone):
        raise
    except Exception:
        housekeeping.print_places()
        yield Page.empty(verdict.status(FAULT, error=True), running=False)


def details(rows: list[Row], chosen: str | None, gain: float, run: Any = "") -> dict[str, Any]:
    """What is shown of the chosen protein, of the first by default."""
    if not rows:
        return {}
    found = next((row for row in rows if row["protein_id"] == chosen), rows[0])
    return {
        "results": verdict.table(rows, found["protein_id"]),
        "answer": verdict.answer(found, KNOWN.get(found["sequence"], ""), str(run)),
        "figures": pictures.figures(found, gain),
        "after": gr.Group(visible="image" in found),
    }


def ending(rows: list[Row], gain: float, said: str, folder: Path | None = None, chosen: str | None = None) -> list[Any]:
    """The page after a run's end: what was done can be taken home, from `folder` if it was written there before."""
    shown: dict[str, Any] = {"status": said, "start": gr.Button("Predict"), "stop": gr.Button(visible=False)}
    if rows:
        folder = folder or housekeeping.new_folder()
        if not (folder / "openGPS.zip").exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "predictions.csv").write_text(pictures.write_csv(rows), encoding="utf-8")
            pictures.write_archive(rows, folder / "openGPS.zip")
        for name, file in (("csv", "predictions.csv"), ("zip", "openGPS.zip")):
            shown[name] = gr.DownloadButton(value=str(folder / file), visible=True)
        shown["assay"] = pictures.side_by_side(rows, gain)
        shown["keep"] = gr.Button(visible=True)
        shown["results"] = verdict.table(rows, chosen or rows[0]["protein_id"])
    return Page.show(**shown)


async def keep(rows: list[Row]) -> list[Any]:
    """Keep the answers, and say where they are found and how they are deleted."""
    visitor = lanes.current_visitor()
    try:
        async with lanes.job(visitor, lanes.SMALL * (len(rows) > FEW) + 1) as lane:
            name, key = await lane.run(visitor, keeping.keep, rows, visitor)
    except InputError as error:
        return Page.show(kept=verdict.status(str(error), error=True))
    shown = {
        "kept": verdict.kept(name, key, housekeeping.RESULT_DAYS),
        "owner": (name, key),
        "keep": gr.Button(visible=False),
    }
    return Page.show(**shown, delete=gr.Button(visible=True))


def delete(owner: tuple[str, str] | None) -> list[Any]:
    try:
        keeping.delete(*owner or ("", ""))
    except InputError as error:
        return Page.show(kept=verdict.status(str(error), error=True))
    said = verdict.status("The kept result is deleted.")
    return Page.show(kept=said, owner=None, delete=gr.Button(visible=False))


async def kept(gain: float, request: gr.Request) -> list[Any]:
    """The result that an address like `?result=NAME` asks for; with its key, it can be deleted."""
    name, key = (str(request.query_params.get(field, "")) for field in ("result", "key"))
    if not name:
        return Page.show()
    visitor = lanes.current_visitor()
    try:
        async with lanes.job(visitor, lanes.SMALL * keeping.is_large(name) + 1) as lane:
            return await lane.run(visitor, looked_at, name, key, gain)
    except InputError as error:
        return Page.empty(verdict.status(str(error), error=True), running=False)


def looked_at(name: str, key: str, gain: float) -> list[Any]:
    """The page with a kept result."""
    rows, said = keeping.find(name)
    folder = housekeeping.OWN / f"opengps-{name}"  # written once, however often it is looked at
    values = dict(zip(Page.names, ending(rows, gain, verdict.status(said), folder), strict=True))
    chosen = rows[0]["protein_id"]
    values |= {"rows": rows, "chosen": chosen, "keep": gr.Button(visible=False)} | details(rows, chosen, gain, name)
    return Page.show(**values | ({"owner": (name, key), "delete": gr.Button(visible=True)} if key else {}))


def stopped(rows: list[Row], gain: float) -> list[Any]:
    runs[lanes.current_page()] = next(numbers)
    drawn = sum("image" in row for row in rows)
    return ending(rows, gain, verdict.status(f"Stopped: {len(rows)} read, {drawn} drawn."))


def choose(rows: list[Row], gain: float, event: gr.EventData) -> list[Any]:
    chosen = chosen_on[lanes.current_page()] = str(getattr(event, "protein_id", ""))
    return Page.show(chosen=chosen, **details(rows, chosen, gain, f"chosen {chosen}"))


def brighten(rows: list[Row], chosen: str | None, gain: float) -> list[Any]:
    shown = details(rows, chosen, gain)
    return Page.show(assay=pictures.side_by_side(rows, gain), **{n: v for n, v in shown.items() if n == "figures"})


def preview(image: str | None, channel: str, page: str, um_per_px: str) -> tuple[Any, None, str]:
    """The uploaded image at the scale that is drawn at, to click on where it is larger; and what is assumed of it."""
    if not image:
        return gr.Image(visible=False), None, ""
    try:
        nucleus = read_image(image, channel, page, um_per_px)
    except InputError as error:
        return gr.Image(visible=False), None, verdict.status(str(error), error=True)
    assert nucleus is not None
    shown = pictures.grey(nucleus.pixels - nucleus.pixels.min())
    height, width = nucleus.pixels.shape
    said = f"{nucleus.scale} {width} x {height} pixels of 0.206 µm"
    said += f"; click where to draw: a square of {service.CROP}." if max(height, width) > service.CROP else "."
    return gr.Image(shown, visible=True), None, verdict.status(said)


def choose_point(event: gr.SelectData) -> tuple[list[int], str]:
    x, y = event.index
    return [x, y], verdict.status(f"The square of {service.CROP} pixels around ({x}, {y}) will be drawn on.")


def asked(request: gr.Request) -> Any:
    """The text that an address like `?id=P08684` asks for; without one, what is there stays."""
    return str(request.query_params.get("id", ""))[:200] or gr.skip()


def build() -> None:
    """The tab's content, inside of a `gr.Tab`."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    rows, point, chosen, owner = gr.State([]), gr.State(None), gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            text = gr.Textbox(
                label="Protein sequence, FASTA or UniProt accessions",
                lines=6,
                max_lines=12,
                placeholder="MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKT...",
                elem_id="sequence",
            )
            with gr.Row():
                start = gr.Button("Predict", variant="primary", elem_id="predict")
                stop = gr.Button("Stop", visible=False, elem_id="stop")
            organism = gr.Radio(
                list(service.ORGANISMS),
                value="any",
                label="Organism",
                info="Animals and fungi have no plastids: there the model must not name them.",
                elem_id="organism",
            )
            shown_examples = {name: f">{header}\n{sequence}" for name, (header, sequence, _) in examples().items()}
            shown_examples[BATCH] = "\n".join(shown_examples.values())
            gr.Examples(
                [[fasta] for fasta in shown_examples.values()],
                text,
                label="Examples: click one",
                example_labels=list(shown_examples),
            )
            with gr.Accordion("A file of proteins", open=False):
                file = gr.File(
                    label="FASTA, CSV, TSV, UniProt or GenBank text, also .gz",
                    type="filepath",
                    height=120,
                    elem_id="proteins",
                )
            with gr.Accordion("Your own nucleus", open=False):
                image = gr.File(
                    label="PNG, JPEG or TIFF, 8 or 16 bit", type="filepath", height=120, elem_id="nucleus-file"
                )
                channel = gr.Radio(["grey", "red", "green", "blue"], value="grey", label="Channel of the nucleus")
                page = gr.Textbox(label="Page of a file of several, from 0", placeholder="the only one")
                um_per_px = gr.Textbox(
                    label="Size of a pixel in micrometres",
                    placeholder="what the file says",
                    elem_id="um-per-px",
                )
                shown = gr.Image(
                    format="png", visible=False, interactive=False, label="Where to draw", show_label=False, buttons=[]
                )
                where = gr.HTML(elem_id="where", js_on_load=verdict.ALOUD)
            with gr.Accordion("Options", open=False):
                model = gr.Dropdown(service.MODELS, value=service.DEFAULT_MODEL, label="Model", elem_id="model")
                own = gr.Checkbox(False, label="One threshold for all compartments, in place of the model's own")
                threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Threshold")
                samples = gr.Slider(1, service.MAX_SAMPLES, 1, step=1, label="Pictures a protein (diffusion models)")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="status", js_on_load=verdict.ALOUD)
            results = gr.HTML(elem_id="results", js_on_load=SCRIPT.read_text(encoding="utf-8"))
            answer = gr.HTML(elem_id="answer", js_on_load=SCRIPT.read_text(encoding="utf-8"))
            figures = gr.HTML(elem_id="figures")
            with gr.Group(visible=False) as after:
                gain = gr.Slider(0.5, 4, 1, step=0.1, label="Brightness of the protein")
            assay = gr.HTML(elem_id="assay")
            with gr.Row():
                as_csv = gr.DownloadButton("Table (CSV)", visible=False, elem_id="csv")
                as_zip = gr.DownloadButton("All of it (ZIP)", visible=False, elem_id="zip")
                to_keep = gr.Button(f"Keep for {housekeeping.RESULT_DAYS} days", visible=False, elem_id="keep")
            where_kept = gr.HTML(elem_id="kept", js_on_load=verdict.ALOUD)
            to_delete = gr.Button("Delete the kept result", visible=False, elem_id="delete")

    outputs = [rows, chosen, status, start, stop, results, answer, figures, assay, after, as_csv, as_zip]
    outputs += [to_keep, where_kept, owner, to_delete]
    inputs = [text, file, image, channel, page, um_per_px, point, model, organism, own, threshold, samples, gain]
    limit: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple"}
    going = start.click(run, inputs, outputs, **limit, **hidden)
    stop.click(stopped, [rows, gain], outputs, cancels=[going], **hidden)
    results.select(choose, [rows, gain], outputs, **hidden)
    to_keep.click(keep, rows, outputs, **hidden)
    to_delete.click(delete, owner, outputs, **hidden)
    gain.release(brighten, [rows, chosen, gain], outputs, **hidden)
    for component in (image, channel, page, um_per_px):
        component.change(preview, [image, channel, page, um_per_px], [shown, point, where], **hidden)
    shown.select(choose_point, None, [point, where], **hidden)
    root = gr.context.Context.root_block
    assert root is not None
    asking = root.load(asked, None, text, **hidden)
    asking.then(
        None,
        text,
        None,
        js="() => { if (new URL(location).searchParams.get('id')) document.querySelector('#predict').click(); }",
        **hidden,
    )
    root.load(kept, gain, outputs, **hidden)
    root.unload(left)


def left() -> None:
    """A page was closed."""
    for kept_of in (runs, chosen_on):
        kept_of.pop(lanes.current_page(), None)
