"""
What a prediction says, in words, and as HTML that reads in both themes, by keyboard and aloud.

Everything that a visitor typed goes through `text`, which escapes it.
"""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

from reading import ACCESSION

from protloc.taxonomy import MEMBRANE, SORTING_SIGNALS, SORTING_TREE

# What `python -m benchmarks.confidence` measured of the shipped models: how often each word was right
CONFIDENCE = json.loads(Path(__file__).with_name("confidence.json").read_text())
LETTERS = 1200  # residues of a protein whose letters are all shown
LINE = 50  # residues of a line of letters
LINKS = {
    "UniProt": "https://www.uniprot.org/uniprotkb/{}",
    "Human Protein Atlas": "https://www.proteinatlas.org/search/{}",
    "AlphaFold DB": "https://alphafold.ebi.ac.uk/entry/{}",
}
Row = dict[str, Any]
ALOUD = (
    "element.setAttribute('aria-live', 'polite');"  # for the place of a `status`, which stays while its text changes
)


def text(value: Any) -> str:
    """Escaped, also for templates and Markdown that it may come into."""
    escaped = html.escape(str(value))
    return re.sub(r"[{}$`\\\[\]*_]", lambda found: f"&#{ord(found[0])};", escaped)


def words(probability: float, threshold: float) -> str:
    """How far a probability lies above its threshold (`benchmarks.confidence.WORDS`)."""
    distance = log_odds(probability) - log_odds(threshold)
    return [word for word, start in CONFIDENCE["from"].items() if start is None or distance >= start][-1]


def log_odds(probability: float) -> float:
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))


def named(row: Row) -> list[str]:
    """The compartments of a row, most probable first."""
    return row["localizations"].split("|") if row["localizations"] else []


def signals(row: Row) -> list[str]:
    """Sorting signals with their places where the model finds them, the others with their probability."""
    segments = row.get("segments", [])
    placed = {one["type"] for one in segments}
    called = [name for name in row.get("signals", "").split("|") if name and name not in placed]
    return [
        f"{SORTING_SIGNALS[one['type']]} {one['start']}-{one['end']} ({one['probability']:.2f})" for one in segments
    ] + [f"{SORTING_SIGNALS[name]} ({row[f'signal_{name}']:.2f})" for name in called]


def verdict(row: Row) -> str:
    """One line in words: `P08684: endoplasmic reticulum (0.55, well above its threshold) · membrane (0.93) · ...`"""
    parts = [compartments(row) or "no compartment reaches the threshold"]
    if "membrane" in row:
        parts.append(membrane(row))
    if row.get("membrane") == MEMBRANE[1]:
        sure = words(row["membrane_probability"], row["membrane_threshold"])
        parts[-1] = f"membrane ({row['membrane_probability']:.2f}, {sure})"
    parts += signals(row)
    parts.append("not read whole: residues were left out of the middle" if row["truncated"] else "read whole")
    if "image_label" in row:
        parts.append(
            {
                True: "the picture agrees",
                False: f"the picture disagrees: it shows {row['image_label']}",
                None: "the picture has no class for this",
            }[row["picture_agrees"]]
        )
    return f"{row['protein_id']}: {' · '.join(parts)}"


def compartments(row: Row) -> str:
    """`endoplasmic reticulum (0.55, well above its threshold) and nucleus (0.41, just above its threshold)`"""
    said = []
    for name in named(row):
        limit = row["thresholds"][name]
        sure = f"threshold {limit:.2f}" if one_threshold(row) else words(row[name], limit)
        said.append(f"{name[0].lower()}{name[1:]} ({row[name]:.2f}, {sure})")
    return " and ".join(said)


def one_threshold(row: Row) -> bool:
    """Whether a visitor's threshold stands for the model's own, one of each compartment."""
    return len(set(row["thresholds"].values())) == 1


def membrane(row: Row) -> str:
    """`soluble (0.97)`, or nothing of a model that doesn't tell."""
    if "membrane" not in row:
        return ""
    probability = float(row["membrane_probability"])
    return f"{row['membrane']} ({probability if row['membrane'] == MEMBRANE[1] else 1 - probability:.2f})"


def backing(row: Row, model: str = "deeploc") -> str:
    """What the words of a row's compartments are worth, as measured of that model; empty where nothing was."""
    if one_threshold(row):
        return ""
    used = dict.fromkeys(words(row[name], row["thresholds"][name]) for name in named(row))
    said = []
    for word in used:
        shares = [
            f"{of[word]['right']:.0%} of {of[word]['calls']:,} in {title}"
            for title, of in measured(model)
            if word in of
        ]
        said += [f"“{word}” was right for {' and '.join(shares)}"] if shares else []
    return "; ".join(said)


def measured(model: str = "deeploc") -> list[tuple[str, dict[str, Any]]]:
    """Counts of each word, by the title of a set of proteins."""
    return list(CONFIDENCE["models"].get(model, {"compartments": {}})["compartments"].items())


def answer(row: Row, known: str = "", run: str = "") -> str:
    """
    The answer to one protein: the verdict, the strip of its sequence, its probabilities, and the sorting tree.

    Args:
        row: As `service.answer` gives it.
        known (`str`): Where the protein is found, of an example.
        run (`str`): Tells runs apart: the page moves the focus to the answer of a new one.
    """
    name, _, line = verdict(row).partition(": ")
    first, *rest = line.split(" · ")
    parts = [f"<b>{text(first)}</b>", *map(text, rest)]
    if row.get("picture_agrees") is False:
        parts[-1] = f'<strong class="warn">{parts[-1]}</strong>'
    said = f'<h3 tabindex="-1" data-run="{text(run)}">{text(name)}</h3><p class="verdict">{" · ".join(parts)}</p>'
    if known:
        right = known in named(row)
        said += f'<p class="{"" if right else "warn"}">Found in experiments: {text(known.lower())}. '
        said += "The prediction is right.</p>" if right else "The prediction is wrong here, as it sometimes is.</p>"
    if row["warning"]:
        said += f'<p class="warn">Careful: {text(row["warning"])}.</p>'
    worth = backing(row, row["model_version"].partition(" ")[0])  # nothing was measured of a site owner's models
    said += f'<p class="note">{text(worth)}.</p>' if worth else ""
    if accurate := row.get("accurate"):
        said += side_by_side(row, accurate)
    return (
        f'<section class="answer" aria-label="Answer">{said}{links(row["protein_id"])}{strip(row)}{probabilities(row)}'
        f'{tree(row)}<p class="note">{text(row["model_version"])}; organism: {text(row["organism"])}.</p></section>'
    )


def links(protein_id: str) -> str:
    """Pages of the protein elsewhere, where its id is an accession."""
    found = re.fullmatch(rf"(?:(?:sp|tr)\|)?({ACCESSION.pattern})(?:\|\w+)?", protein_id)
    if not found:
        return ""
    accession = found[1].partition("-")[0]
    shown = (
        f'<a href="{page.format(accession)}" target="_blank" rel="noopener noreferrer">{name}</a>'
        for name, page in LINKS.items()
    )
    again = f'<a href="?id={accession}">Link to ask again</a>'
    return f'<p class="note">{accession} elsewhere: {", ".join(shown)}. {again}</p>'


def side_by_side(fast: Row, accurate: Row) -> str:
    """What both models say of a protein, and what the words of the accurate one are worth."""
    rows = "".join(
        f"<tr><th scope=row>{title}</th><td>{text(compartments(row) or 'none')}</td>"
        f"<td>{membrane(row)}</td>"
        f"<td>{text(', '.join(signals(row)) or 'none')}</td></tr>"
        for title, row in (("fast: DeepLoc", fast), ("accurate: DeepLoc on UniRep", accurate))
    )
    agree = (
        "They agree." if named(fast) == named(accurate) else "Where they differ, the accurate one is right more often."
    )
    worth = backing(accurate, "deeploc-unirep")
    worth = f'<p class="note">Of the accurate one, {text(worth)}.</p>' if worth else ""
    return (
        "<table><caption>Two models. "
        + agree
        + " UniRep's weights are under CC BY-NC 4.0.</caption><thead><tr><td></td>"
        "<th scope=col>compartments</th><th scope=col>membrane</th><th scope=col>signals</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{worth}"
    )


def strip(row: Row) -> str:
    """The sequence with what the model looked at: an overview of the whole, and its letters."""
    sequence, attention = row["sequence"], [float(weight) for weight in row["attention"]]
    top = max(attention) or 1
    most = max(range(len(sequence)), key=attention.__getitem__)
    heights = binned(attention)
    step = 1000 / len(heights)
    path = "".join(
        f"L{i * step:.1f} {60 - 50 * h / top:.1f}L{(i + 1) * step:.1f} {60 - 50 * h / top:.1f}"
        for i, h in enumerate(heights)
    )
    marks = "".join(segment(one, len(sequence)) for one in row.get("segments", []))
    said = (
        f"The model looked most at {sequence[most]}{most + 1} and its surroundings; "
        f"{len(sequence)} residues, from 1 on the left."
    )
    if row.get("segments"):
        said += f" Segments: {', '.join(signals(row))}."
    overview = (
        f'<svg viewBox="0 0 1000 72" preserveAspectRatio="none" role="img" aria-label="{text(said)}" class="overview">'
        f'<title>{text(said)}</title><path class="looked" d="M0 60{path}L1000 60Z"/>{marks}</svg>'
        f'<p class="ends note" aria-hidden="true"><span>1</span><span>{len(sequence)}</span></p>'
    )
    starts = range(0, len(sequence), LINE)
    shown = list(starts)
    if len(sequence) > LETTERS:  # the ends, and where the model looked
        ranked = sorted(starts, key=lambda start: -max(attention[start : start + LINE]))
        shown = sorted({*ranked[: LETTERS // LINE - 4], *list(starts)[:2], *list(starts)[-2:]})
    lines, before = [], -LINE
    for start in shown:
        if start > before + LINE:
            lines.append(f'<p class="gap">residues {before + LINE + 1} to {start} are not shown</p>')
        lines.append(letters(row, start, attention, top))
        before = start
    return (
        f'<h4>Where the model looked</h4><p class="note">{text(said)} Attention marks a neighbourhood, not the '
        f'residues that matter one by one.</p>{overview}<label class="note">Size of the letters '
        '<input type="range" class="zoom" min="0.6" max="2" step="0.1" value="1"></label>'
        f'<div class="letters">{"".join(lines)}</div>'
    )


def binned(weights: list[float], columns: int = 500) -> list[float]:
    """At most so many columns, each with the highest of its residues."""
    width = -(-len(weights) // columns)
    return [max(weights[start : start + width]) for start in range(0, len(weights), width)]


def segment(one: dict[str, Any], length: int) -> str:
    """A segment below the overview."""
    left, width = 1000 * (one["start"] - 1) / length, max(3, 1000 * (one["end"] - one["start"] + 1) / length)
    name = SORTING_SIGNALS.get(one["type"], one["type"])
    said = text(f"{name} {one['start']}-{one['end']}, probability {one['probability']:.2f}")
    return f'<rect class="segment" x="{left:.1f}" y="62" width="{width:.1f}" height="8"><title>{said}</title></rect>'


def letters(row: Row, start: int, attention: list[float], top: float) -> str:
    """A line of the sequence, each residue shaded by the attention on it, and underlined in a segment."""
    sequence, end = row["sequence"], min(start + LINE, len(row["sequence"]))
    inside = {
        place for one in row.get("segments", []) for place in range(max(one["start"] - 1, start), min(one["end"], end))
    }
    average = 1 / len(sequence)
    cells = []
    for place in range(start, end):
        share = attention[place] / top
        kind = f"{'h ' if share > 0.5 else ''}{'s' if place in inside else ''}".strip()
        cells.append(
            f'<i{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} style="--a:{share:.2f}" '
            f'title="{text(sequence[place])}{place + 1}: {attention[place] / average:.1f} times the average">'
            f"{text(sequence[place])}</i>"
        )
    most = max(range(start, end), key=attention.__getitem__)
    said = f"Residues {start + 1} to {end}: {sequence[start:end]}. Looked at most: {sequence[most]}{most + 1}."
    spans = f"<span>{start + 1}</span>{''.join(cells)}"
    return f'<p class="line" tabindex="0" role="img" aria-label="{text(said)}">{spans}</p>'


def probabilities(row: Row) -> str:
    """Compartments, with bars and numbers; then the nine signals."""
    ranked = sorted(row["thresholds"], key=lambda name: -row[name])
    lines = "".join(
        f'<tr class="{"named" if name in named(row) else ""}"><th scope=row>{text(name)}</th>'
        f'<td class="bar"><span style="--p:{row[name]:.3f};--t:{row["thresholds"][name]:.3f}"></span></td>'
        f"<td>{row[name]:.2f}</td><td>{row['thresholds'][name]:.2f}</td></tr>"
        for name in ranked
    )
    found = (
        "<h4>Probabilities</h4><table><caption>Compartments; a mark at the threshold, those above it in bold</caption>"
        "<thead><tr><th scope=col>compartment</th><th scope=col></th><th scope=col>probability</th>"
        f"<th scope=col>threshold</th></tr></thead><tbody>{lines}"
    )
    if "membrane" in row:
        kind = "named" if row["membrane"] == MEMBRANE[1] else ""
        found += (
            f'<tr class="{kind}"><th scope=row>membrane</th><td class="bar">'
            f'<span style="--p:{row["membrane_probability"]:.3f};--t:{row["membrane_threshold"]:.3f}"></span></td>'
            f"<td>{row['membrane_probability']:.2f}</td><td>{row['membrane_threshold']:.2f}</td></tr>"
        )
    found += "</tbody></table>"
    if "signals" in row:
        cells = "".join(
            f'<tr class="{"named" if name in row["signals"].split("|") else ""}"><th scope=row>{name}</th>'
            f"<td>{title}</td><td>{row[f'signal_{name}']:.2f}</td></tr>"
            for name, title in SORTING_SIGNALS.items()
        )
        found += (
            "<details><summary>Nine sorting signals</summary><table><thead><tr><th scope=col>short</th>"
            "<th scope=col>signal</th><th scope=col>probability</th></tr></thead>"
            f"<tbody>{cells}</tbody></table></details>"
        )
    return found


def tree(row: Row) -> str:
    """The decisions along the sorting pathways, as a drawing and as a list."""
    if f"tree_{next(iter(SORTING_TREE))}" not in row:
        return ""
    names = list(row["thresholds"])
    lines: list[str] = []
    drawn: list[str] = []
    leaves = iter(range(len(names)))

    def draw(labels: list[int], depth: int, share: float, came: str) -> float:
        """Draw what is below a set of compartments; returns the height at which it is entered."""
        x = 30 + 175 * depth
        if len(labels) == 1:
            y = 18.0 + 26 * next(leaves)
            drawn.append(f'<text x="905" y="{y + 4}">{text(names[labels[0]])} {share:.2f}</text>')
            drawn.append(f'<path style="--w:{share:.2f}" d="M{x} {y}H900"/>')
            return y
        question, (yes, no) = next(
            (name, sides) for name, sides in SORTING_TREE.items() if {*sides[0], *sides[1]} == {*labels}
        )
        probability = float(row[f"tree_{question}"])
        lines.append(f"<li>{text(came)}{text(question)}? {probability:.2f}</li>")
        above = draw(yes, depth + 1, share * probability, f"{came}{question}, ")
        below = draw(no, depth + 1, share * (1 - probability), f"{came}not {question}, ")
        y = (above + below) / 2
        for end, part in ((above, probability), (below, 1 - probability)):
            drawn.append(
                f'<path style="--w:{share * part:.2f}" d="M{x} {y}C{x + 90} {y} {x + 80} {end} {x + 175} {end}"/>'
            )
        drawn.append(f'<text x="{x}" y="{y - 7}" class="q">{text(question)}? {probability:.2f}</text>')
        return y

    draw(list(range(len(names))), 0, 1.0, "")
    return (
        "<details><summary>The sorting tree: nine decisions</summary>"
        '<svg viewBox="0 0 1100 280" role="img" aria-label="Sorting tree; the list below has its numbers" class="tree">'
        f'{"".join(drawn)}</svg><ul class="note">{"".join(lines)}</ul></details>'
    )


def table(rows: list[Row], chosen: str) -> str:
    """The proteins of a request: sorted by the buttons in the header, filtered by the page, chosen by their buttons."""
    if len(rows) < 2:
        return ""
    with_picture = any("image_label" in row for row in rows)
    columns = ["protein", "residues", "compartments", "probability", "membrane", "signals", *["picture"] * with_picture]
    head = "".join(
        f'<th scope=col aria-sort="none"><button type="button" data-sort="{i}">{name}</button></th>'
        for i, name in enumerate(columns)
    )
    lines = []
    for row in rows:
        top = f"{max((row[name] for name in named(row)), default=0):.2f}"
        cells = [
            str(row["length"]),
            ", ".join(named(row)) or "none",
            top,
            row.get("membrane", ""),
            ", ".join(row.get("signals", "").split("|")),
        ]
        if with_picture:
            cells.append(row.get("image_label", "") + (" (disagrees)" if row.get("picture_agrees") is False else ""))
        here = ' aria-current="true"' if row["protein_id"] == chosen else ""
        lines.append(
            f'<tr{here}><th scope=row><button type="button" data-choose="{text(row["protein_id"])}">'
            f"{text(row['protein_id'])}</button></th>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>"
        )
    counts: dict[str, int] = {}
    for row in rows:
        for name in named(row):
            counts[name] = counts.get(name, 0) + 1
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return (
        f'<label>Show only rows with <input type="search" class="filter" placeholder="nucleus, membrane ..."></label>'
        f'<p class="note"><span class="count">{len(rows)} of {len(rows)}</span> proteins. {text(said)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def status(said: str, problems: list[str] | None = None, error: bool = False) -> str:
    """What the page says of a run; problems are listed."""
    listed = "".join(f"<li>{text(one)}</li>" for one in (problems or [])[:20])
    more = f"<li>and {len(problems) - 20} more</li>" if problems and len(problems) > 20 else ""
    left = (
        f"<details open><summary>{len(problems or [])} left out</summary><ul>{listed}{more}</ul></details>"
        if problems
        else ""
    )
    return f"<p{' role=alert class=warn' if error else ''}>{linked(said)}</p>{left}"


def kept(name: str, key: str, days: int) -> str:
    """Where a result is found that was kept, and the owner's address, which deletes it."""
    return (
        f'<p>Kept for {days} days: <a href="?result={name}">address of the result</a>, for whomever you '
        f'give it to; <a href="?result={name}&amp;key={key}">your own address</a>, from which it can be deleted '
        "earlier: copy it now.</p>"
    )


def linked(said: str) -> str:
    """Escaped, with addresses at UniProt as links."""
    return re.sub(
        r"https://www\.uniprot\.org/[\w/?=.%-]*\w",
        lambda found: f'<a href="{found[0]}" target="_blank" rel="noopener noreferrer">{found[0]}</a>',
        text(said).replace("&#95;", "_"),
    )
