"""The tab Compare: a protein beside its variants, or a window of it with every residue changed to every other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
import housekeeping
import lanes
import lookup
import pictures
import reading
import service
import verdict
from api import endpoint, saying
from predict_tab import FAULT, SCRIPT
from reading import InputError

from protloc import variants
from protloc.models.protein_sequence import AMINO_ACIDS
from protloc.sequences import clean_sequence

MAX_VARIANTS = 30
MAX_WINDOW = 30  # residues that are scanned
DRAWN = 6  # of a protein and its variants
INTRO = f"""
What does a variant change? Give a protein, and variants of it such as `R175H`, `p.Arg213Ter` or `F508del` (several in
one protein: `R175H+P72R`), or a second sequence; at most {MAX_VARIANTS}. Or scan a window: every residue changed to
every other. The model has not been trained on variants: it says what the changed sequence looks like to it.
"""
Row = dict[str, Any]


def changed(sequence: str, text: str) -> list[tuple[str, str]]:
    """
    Names and sequences of the variants in a text, which may be a second sequence.

    Raises:
        InputError: As `protloc.variants.change`.
    """
    text = (text or "").strip()
    named = variants.read_variants(text)
    try:
        if text.startswith(">") or (named and not any(variants.CHANGE.match(one) for one in named)):
            others = reading.read_proteins(text).proteins
            return [("second" if name == reading.PASTED else name, other) for name, other in others]
        if len(named) > MAX_VARIANTS:
            raise InputError(f"{len(named)} variants: at most {MAX_VARIANTS} at a time.")
        found = [(one, variants.change(sequence, one)) for one in named]
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{error}.") from None
    for name, other in found:
        if len(other) < reading.MIN_RESIDUES:
            raise InputError(f"{name} leaves {len(other)} residues: at least {reading.MIN_RESIDUES} are needed.")
    return found


def window(sequence: str, start: int | None, end: int | None) -> tuple[int, int] | None:
    """Residues to scan; `None` without."""
    if start is None and end is None:
        return None
    if start is None or end is None:
        raise InputError("Give both ends of the window to scan, or none.")
    if not 1 <= start <= end <= len(sequence):
        raise InputError(f"A window from {start} to {end} is not inside of a protein of {len(sequence)} residues.")
    if end - start >= MAX_WINDOW:
        raise InputError(f"A window of {end - start + 1} residues: at most {MAX_WINDOW} are scanned.")
    return start, end


def scan_residue(name: str, sequence: str, place: int, job: service.Job) -> list[Row]:
    """The rows of one residue's substitutions."""
    asked = [(one, variants.change(sequence, one)) for one in variants.scan(sequence, place, place)]
    _, *rows = variants.compare(name, sequence, asked, *job.models.localizer)
    return rows


def differences(reference: Row, row: Row) -> Row:
    """What `protloc variants` says of a variant, beside the site's row."""
    before, after = verdict.named(reference), verdict.named(row)
    return {
        "variant": row["variant"],
        "gained": [name for name in after if name not in before],
        "lost": [name for name in before if name not in after],
        "delta_membrane": round(row["membrane_probability"] - reference["membrane_probability"], 6),
        **{f"delta_{name}": round(row[name] - reference[name], 6) for name in row["thresholds"]},
    }


async def computed(protein, others, places, organism, draw: bool) -> AsyncIterator[Row | list[Row]]:
    """Rows of the reference and of each variant, then a list of rows for each residue that is scanned."""
    visitor = lanes.current_visitor()
    model = service.DEFAULT_MODEL if draw else next(iter(service.SHIPPED))
    job = await asyncio.to_thread(service.prepare, [protein, *others], None, model, None, 1, organism)
    scanned = range(places[0], places[1] + 1) if places else range(0)
    cost = job.cost([protein, *others]) + 19 * len(protein[1]) * len(scanned)
    async with lanes.job(visitor, cost) as lane:
        for number, (name, sequence) in enumerate([protein, *others]):
            step = service.answer if number < DRAWN else service.said_of
            row = await lane.run(visitor, step, (name, sequence), job)
            yield row | {"variant": "" if (name, sequence) == protein else name}
        for place in scanned:
            yield await lane.run(visitor, scan_residue, *protein, place, job)


async def run(text, changes, start, end, organism) -> AsyncIterator[tuple[str, str]]:
    """Status and comparison, as far as they are."""
    yield verdict.status("Reading the input ..."), ""
    try:
        ends = [reading.number(end, "An end of the window", whole=True) for end in (start, end)]
        protein, others, places = await asyncio.to_thread(asked, text, changes, *ends)
        rows: list[Row] = []
        heat: list[list[Row]] = []
        total = 1 + len(others) + (places[1] - places[0] + 1 if places else 0)
        async for found in computed(protein, others, places, organism, draw=True):
            heat.append(found) if isinstance(found, list) else rows.append(found)
            yield verdict.status(f"{protein[0]}: {len(rows) + len(heat)} of {total} done."), gr.skip()
        page = page_of(rows) + (heat_map(rows[0], heat, places[0]) if places else "")
        yield verdict.status(f"{protein[0]}: done."), f'<section aria-label="Comparison">{page}</section>'
    except InputError as error:
        yield verdict.status(str(error), error=True), ""
    except (asyncio.CancelledError, GeneratorExit, lanes.ClientGone):
        raise
    except Exception:
        housekeeping.print_places()
        yield verdict.status(FAULT, error=True), ""


def asked(text, changes, start, end):
    proteins, skipped = lookup.read(text)
    if len(proteins) + len(skipped) > 1:
        raise InputError(f"{len(proteins) + len(skipped)} proteins: give one here, and its variants below.")
    (name, raw) = proteins[0]
    sequence = clean_sequence(raw)
    others, places = changed(sequence, changes), window(sequence, start, end)
    if not others and not places:
        raise InputError("Give variants such as R175H, a second sequence, or a window to scan.")
    return (name, sequence), others, places


def page_of(rows: list[Row]) -> str:
    """The comparison as HTML: in words, every difference, the attention aligned, and the pictures."""
    reference, *others = rows
    said = f'<h3 tabindex="-1" data-run="{id(rows)}">{verdict.text(reference["protein_id"])}</h3>'
    said += "".join(f"<p>{verdict.text(verdict.verdict(row))}</p>" for row in rows)
    names = list(reference["thresholds"])
    head = "".join(f"<th scope=col>{verdict.text(name)}</th>" for name in ("membrane", *names))
    own = [reference["membrane_probability"], *(reference[name] for name in names)]
    body = f"<tr><th scope=row>reference</th>{''.join(f'<td>{value:.2f}</td>' for value in own)}</tr>"
    for row in others:
        found = differences(reference, row)
        cells = [found["delta_membrane"], *(found[f"delta_{name}"] for name in names)]
        marked = "".join(f"<td>{'<b>' if abs(value) >= 0.1 else ''}{value:+.2f}</td>" for value in cells)
        body += f"<tr><th scope=row>{verdict.text(row['variant'])}</th>{marked}</tr>"
    if others:
        said += (
            '<h4>Probabilities, and how the variants differ</h4><div class="scroll" tabindex="0" role="region" '
            f'aria-label="Differences"><table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            f"{aligned(rows)}{drawn(rows)}"
        )
    return said


def aligned(rows: list[Row]) -> str:
    """Where the model looked, one protein above the other, residue above residue."""
    reference = rows[0]["sequence"]
    whole, top = max(row["length"] for row in rows), max(float(max(row["attention"])) for row in rows)
    lines = []
    for row in rows:
        place = places(reference, row["sequence"])
        heights = verdict.binned([float(weight) for weight in row["attention"]])
        width = -(-row["length"] // len(heights))
        ends = [1000 / whole * place(min(i * width, row["length"])) for i in range(len(heights) + 1)]
        path = "".join(
            f"L{ends[i]:.1f} {40 - 36 * h / top:.1f}L{ends[i + 1]:.1f} {40 - 36 * h / top:.1f}"
            for i, h in enumerate(heights)
        )
        most = int(row["attention"].argmax())
        said = verdict.text(f"{row['variant'] or 'reference'}: looked most at {row['sequence'][most]}{most + 1}")
        lines.append(
            f'<svg viewBox="0 0 1000 42" preserveAspectRatio="none" class="overview low" role="img" '
            f'aria-label="{said}"><title>{said}</title>'
            f'<path class="looked" d="M0 40{path}L{ends[-1]:.1f} 40Z"/></svg><p class="note">{said}</p>'
        )
    return f"<h4>Where the model looked</h4>{''.join(lines)}"


def places(reference: str, other: str) -> Callable[[int], float]:
    """
    Where the residues of a sequence lie on the reference, from the number of those before.

    What both begin and end with lies one above the other, and what is between takes the room between. Sequences that
    share less than half have each its own places.
    """
    start = shared(reference, other)
    shorter = min(len(reference), len(other))
    end = shared(reference[start:][::-1], other[start:][::-1])
    if start + end < shorter / 2:
        return float
    shift, own = len(reference) - len(other), len(other) - start - end
    room = own + shift

    def place(before: int) -> float:
        if before <= start:
            return before
        return before + shift if before >= len(other) - end else start + (before - start) * room / own

    return place


def shared(first: str, second: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))


def drawn(rows: list[Row]) -> str:
    shown = [
        pictures.figure(
            pictures.overlay(row["nucleus"], row["image"]),
            f"{row['variant'] or 'reference'}: {row['image_label']}",
            f"{row['variant'] or 'reference'} drawn as {row['image_label']}",
        )
        for row in rows[:DRAWN]
    ]
    return f'<h4>Drawn</h4><div class="figures">{"".join(shown)}</div>'


def heat_map(reference: Row, heat: list[list[Row]], start: int) -> str:
    """Every substitution of a window: how it changes the most probable compartment."""
    label = max(reference["thresholds"], key=lambda name: reference[name])
    cells, ranked = [], []
    for column, rows in enumerate(heat):
        for row in rows:
            variant, value = row["variant"], row[f"delta_{label}"]
            ranked.append((abs(value), f"{variant} {value:+.2f}"))
            colour = "#0072b2" if value < 0 else "#e69f00"
            cells.append(
                f'<rect x="{30 + 22 * column}" y="{24 + 16 * AMINO_ACIDS.index(variant[-1])}" width="21" height="15"'
                f' fill="{colour}" fill-opacity="{min(1, 2 * abs(value)):.2f}">'
                f"<title>{variant} {value:+.2f}</title></rect>"
            )
    sequence = reference["sequence"][start - 1 : start - 1 + len(heat)]
    heads = "".join(f'<text x="{34 + 22 * i}" y="16">{residue}</text>' for i, residue in enumerate(sequence)) + "".join(
        f'<text x="8" y="{36 + 16 * i}">{residue}</text>' for i, residue in enumerate(AMINO_ACIDS)
    )
    strongest = ", ".join(said for _, said in sorted(ranked, reverse=True)[:8])
    said = verdict.text(f"{label}: the strongest changes of its probability are {strongest}.")
    return (
        f"<h4>Every substitution of residues {start} to {start + len(heat) - 1}</h4>"
        f'<p>{said} Orange: more probable; blue: less.</p><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Heat map"><svg width="{40 + 22 * len(heat)}" height="350" class="tree" role="img" '
        f'aria-label="{said}" style="min-width:auto;width:auto">{heads}{"".join(cells)}</svg></div>'
    )


async def compare(text: str, variants: str = "", scan: str = "", organism: str = "any") -> dict[str, Any]:
    """
    What variants of a protein change in where it is found in the cell.

    Args:
        text: The protein's amino-acid sequence in one-letter codes, or FASTA.
        variants: Variants such as "R175H, p.Arg213Ter, F508del, R175H+P72R", or a second sequence.
        scan: Residues "START-END" of which all single substitutions are predicted, at most 30.
        organism: "animal", "fungus", "plant" or "other"; animals and fungi have no plastids. "any" if unknown.

    Returns:
        An object of `reference`, `variants` with differences (`delta_...`, `gained`, `lost`) and `scan`, a list.
    """
    with saying():
        start, _, end = (scan or "").partition("-")
        if scan and not (start.strip().isdecimal() and end.strip().isdecimal()):
            raise InputError(f"{scan[:20]!r} is not START-END, such as 1-30.")
        numbers = (int(start), int(end)) if scan else (None, None)
        protein, others, places = await asyncio.to_thread(asked, text, variants, *numbers)
        found: dict[str, Any] = {"variants": [], "scan": []}
        reference: Row = {}
        async for row in computed(protein, others, places, organism, draw=False):
            if isinstance(row, list):
                found["scan"] += row
            elif not reference:
                reference = row
                found["reference"] = pictures.describe(row)
            else:
                found["variants"].append(pictures.describe(row) | differences(reference, row))
        return found


def build() -> None:
    """The tab's content, inside of a `gr.Tab`."""
    hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    gr.Markdown(INTRO)
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            text = gr.Textbox(label="Protein sequence or FASTA", lines=5, max_lines=10, elem_id="reference")
            changes = gr.Textbox(
                label="Variants, or a second sequence", lines=2, max_lines=8, placeholder="R175H", elem_id="changes"
            )
            with gr.Row():
                start = gr.Textbox(label="Scan from residue", placeholder="no scan", elem_id="scan-from")
                end = gr.Textbox(label="to residue", placeholder="no scan", elem_id="scan-to")
            organism = gr.Radio(list(service.ORGANISMS), value="any", label="Organism")
            go = gr.Button("Compare", variant="primary", elem_id="compare-variants")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(elem_id="compare-status", js_on_load=verdict.ALOUD)
            compared = gr.HTML(elem_id="compared", js_on_load=SCRIPT.read_text(encoding="utf-8"))
    go.click(run, [text, changes, start, end, organism], [status, compared], **hidden)
    empty: dict[str, Any] = {"visible": False}
    inputs = [gr.Textbox(**empty), gr.Textbox("", **empty), gr.Textbox("", **empty), gr.Textbox("any", **empty)]
    endpoint(compare, inputs, [gr.JSON(**empty)], "compare")
