"""The tab Help: how to read an answer, what it can't know, and how to cite it."""

from typing import Any

import gradio as gr
import housekeeping
import pictures
import reading
import verdict


def build() -> None:
    """The tab's content, inside of a `gr.Tab`."""
    gr.Markdown(TEXT)
    gr.HTML(worth(), elem_id="worth")


def worth() -> str:
    """How often each word of the verdict was right, as a table for each model."""
    return "<h4>How often the words were right</h4>" + "".join(
        table(title, verdict.measured(model))
        for model, title in (("deeploc", "DeepLoc (fast)"), ("deeploc-unirep", "DeepLoc on UniRep (accurate)"))
        if verdict.measured(model)
    )


def table(model: str, sets: list[tuple[str, dict[str, Any]]]) -> str:
    head = "".join(f"<th scope=col>{title}</th>" for title, _ in sets)
    lines = ""
    for word in verdict.CONFIDENCE["from"]:
        cells = (
            f"<td>{of[word]['right']:.0%} of {of[word]['calls']:,}</td>" if word in of else "<td></td>"
            for _, of in sets
        )
        lines += f"<tr><th scope=row>{word}</th>{''.join(cells)}</tr>"
    return (
        f'<div class="scroll"><table><caption>{model}: of all compartments named with a word, the share that '
        "experiments had found. Measured by <code>python -m benchmarks.confidence</code>.</caption><thead><tr>"
        f"<td></td>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


TEXT = f"""
### How to read an answer

- **The compartments** are those whose probability reaches the threshold of that compartment. Thresholds differ, because
  some compartments are rare: 0.15 may be much for the lysosome and little for the nucleus. The words say how far a
  probability lies above its threshold; the table below says how often they were right.
- **Membrane or soluble** comes from a part of the model of its own, with its own threshold.
- **Where the model looked** is the attention: what lies around the marked residues went most into the answer. It marks
  a neighbourhood. To ask what a residue matters, change it (tab *Compare*).
- **The sorting tree** asks nine questions in the order of the cell's pathways. It was trained beside the compartments
  and may disagree with them; then be careful.
- **Read whole**: of proteins of more than 1,000 residues, the middle is left out.
- **The picture** is drawn by another model, from the same sequence, on a nucleus. Where its kind disagrees with the
  compartments, the answer says so.

### What it can't know

Both models read the sequence alone, so they say where a protein can go, not where it is in your cells today. Most of
their training proteins are animal, fewer are of plants and fungi, none of bacteria. The picture is what proteins of a
compartment may look like: it has not been seen in any microscope, its fine structure is made up, and it is no evidence.

### What happens to what you send

It is used for nothing but the answer, and is not logged. Files are deleted after {housekeeping.KEPT // 60} minutes. A
result that you ask to keep stays, with its sequences, for {housekeeping.RESULT_DAYS} days under an address that nobody
can guess, or until you delete it. An accession is looked up at UniProt, if the owner of this site left that on; nothing
else leaves it. A small job (a few proteins) never waits behind a large one; of large ones each visitor has one at a
time. At most {reading.MAX_PROTEINS} proteins, {reading.MAX_REQUEST_RESIDUES:,} residues in all, at a time.

### How to cite

{pictures.CITE}. Every file that you take home names the models by a digest of their weights, and the date.
"""
