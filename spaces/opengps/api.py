"""What programs (`gradio_client`, plain HTTP) and assistants (MCP) call; every argument but the first has a default."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import gradio.mcp
import housekeeping
import lanes
import lookup
import pictures
import service
from gradio.utils import get_function_description
from gradio_client.utils import is_file_obj_with_meta
from predict_tab import FAULT, read_image
from reading import InputError, Reading


@contextmanager
def saying() -> Iterator[None]:
    """Errors as programs get them: what is wrong with the input, and nothing of it in the log."""
    try:
        yield
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except lanes.ClientGone:
        raise gr.Error("The connection was closed.", print_exception=False) from None
    except Exception:
        housekeeping.print_places()
        raise gr.Error(FAULT, print_exception=False) from None


async def answers(
    found: Reading, nucleus, um_per_px, channel, page, model, threshold, samples, organism
) -> list[dict[str, Any]]:
    """An answer for each protein, on the middle of an image file."""
    image = await asyncio.to_thread(read_image, nucleus, channel or "grey", page, um_per_px)
    if image is not None:
        image = image._replace(pixels=service.cut(image.pixels))
    job = await asyncio.to_thread(service.prepare, found.proteins, image, model, threshold, samples, organism)
    visitor = lanes.current_visitor()
    async with lanes.job(visitor, job.cost(found.proteins)) as lane:
        return [await lane.run(visitor, service.answer, protein, job) for protein in found.proteins]


async def predict(
    text: str,
    nucleus: str | None = None,
    model: str = "default",
    threshold: float | None = None,
    samples: int = 1,
    organism: str = "any",
    um_per_px: float | None = None,
    channel: str = "grey",
    page: int | None = None,
) -> tuple[dict[str, Any], Any]:
    """
    Where in the cell a protein is found, from its amino-acid sequence, and a picture of it in a cell.

    Args:
        text: One protein: its amino-acid sequence in one-letter codes, FASTA, or (if the site is online) an accession.
        nucleus: Image of a cell's nucleus to draw on (PNG or TIFF); without it a standard nucleus.
        model: "default", or one of the models that the site lists.
        threshold: Probability from 0 to 1 from which a compartment counts; without it the model's own thresholds.
        samples: How many pictures a diffusion model draws.
        organism: "animal", "fungus", "plant" or "other"; animals and fungi have no plastids. "any" if unknown.
        um_per_px: Size of a pixel of the nucleus in micrometres; without it what the image file says.
        channel: "grey", or "red", "green" or "blue" of a colour image of the nucleus.
        page: Page of the nucleus, where a file has several, from 0.

    Returns:
        An object of the columns of `protloc predict --signals --tree`, thresholds and a verdict in words; a picture.
    """
    with saying():
        found = await asyncio.to_thread(lookup.read, text)
        if len(found.proteins) + len(found.skipped) > 1:
            count = len(found.proteins) + len(found.skipped)
            raise InputError(f"{count} proteins: /predict takes one, /predict_batch takes a file of them.")
        options = nucleus, um_per_px, channel, page, model, threshold, samples, organism
        (row,) = await answers(found, *options)
        return pictures.describe(row), pictures.grey(row["image"]) if "image" in row else None


async def predict_batch(
    file: str,
    nucleus: str | None = None,
    model: str = "default",
    threshold: float | None = None,
    samples: int = 1,
    organism: str = "any",
    um_per_px: float | None = None,
    channel: str = "grey",
    page: int | None = None,
) -> tuple[dict[str, Any], str]:
    """
    Where in the cell each protein of a file is found, and pictures of them.

    Args:
        file: FASTA, CSV, TSV, UniProt or GenBank text with up to 100 proteins.
        nucleus: Image of a cell's nucleus to draw the proteins on; without it a standard nucleus.
        model: "default", or one of the models that the site lists.
        threshold: Probability from 0 to 1 from which a compartment counts; without it the model's own thresholds.
        samples: How many pictures a diffusion model draws of each.
        organism: "animal", "fungus", "plant" or "other"; animals and fungi have no plastids. "any" if unknown.
        um_per_px: Size of a pixel of the nucleus in micrometres; without it what the image file says.
        channel: "grey", or "red", "green" or "blue" of a colour image of the nucleus.
        page: Page of the nucleus, where a file has several, from 0.

    Returns:
        An object of `proteins`, each as of /predict, and `skipped`, why others are left out; a ZIP file of all.
    """
    with saying():
        found = await asyncio.to_thread(lookup.read, "", file)
        options = nucleus, um_per_px, channel, page, model, threshold, samples, organism
        rows = await answers(found, *options)
        archive = housekeeping.new_folder() / "openGPS.zip"
        await asyncio.to_thread(pictures.write_archive, rows, archive)
        return {"proteins": [pictures.describe(row) for row in rows], "skipped": found.skipped}, str(archive)


class Assistants(gradio.mcp.GradioMCPServer):
    """Answers objects as JSON and images as images; Gradio's own server answers both as one text of Python's."""

    def postprocess_output_data(self, data, root_url):
        parts = data[0] if isinstance(data[0], (list, tuple)) else data  # Gradio wraps several outputs once more
        content: list[Any] = []
        for part in parts:
            if isinstance(part, dict) and not is_file_obj_with_meta(part):
                content.append(self.types.TextContent(type="text", text=json.dumps(part)))
            elif part is not None:  # no picture was drawn
                content += super().postprocess_output_data([part], root_url)
        return content


def endpoint(function: Callable[..., Any], inputs: list[Any], outputs: list[Any], name: str) -> None:
    """A function for programs; its docstring says what each argument is."""
    _, said, _ = get_function_description(function)
    for component, argument in zip(inputs, inspect.signature(function).parameters, strict=True):
        component.label = said[argument]
    for component, label in zip(outputs, ["answer", "file"][: len(outputs)], strict=True):
        component.label = label
    gr.Button(visible=False).click(function, inputs, outputs, api_name=name, concurrency_limit=None)


def build() -> None:
    """The endpoints, inside of a `gr.Blocks`; hidden components carry the defaults."""
    hidden: dict[str, Any] = {"visible": False}
    for function, first, second in (
        (predict, gr.Textbox(**hidden), gr.Image(format="png", **hidden)),
        (predict_batch, gr.File(type="filepath", **hidden), gr.File(**hidden)),
    ):
        rest = [
            gr.File(None, type="filepath", **hidden),
            gr.Textbox("default", **hidden),
            gr.Number(None, **hidden),
            gr.Number(1, precision=0, **hidden),
            gr.Textbox("any", **hidden),
            gr.Number(None, **hidden),
            gr.Textbox("grey", **hidden),
            gr.Number(None, precision=0, **hidden),
        ]
        endpoint(function, [first, *rest], [gr.JSON(**hidden), second], function.__name__)
