"""Predict the example proteins with the shipped model and compare with what is known: `make demo`."""

import csv
from pathlib import Path

import transformers

from protloc.prediction import predict
from protloc.sequences import read_fasta

HERE = Path(__file__).parent


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    with open(HERE / "proteins.csv", encoding="utf-8") as file:
        known = {row["protein_id"]: row for row in csv.DictReader(file)}

    line = "{:<8} {:<8} {:<44} {:<22} {:<9} {:<9} {}"
    print(line.format("protein", "gene", "predicted (probability)", "known", "membrane", "known", "first right"))
    top_right = exactly_right = membrane_right = 0
    for row in predict(read_fasta(HERE / "proteins.fasta")):
        truth = known[row["protein_id"]]
        predicted = row["localizations"].split("|")
        locations = set(truth["localizations"].split("|"))
        hit = predicted[0] in locations
        top_right += hit
        exactly_right += set(predicted) == locations
        membrane_right += row["membrane"] == truth["membrane"]
        print(
            line.format(
                row["protein_id"],
                truth["gene"],
                ", ".join(f"{name} {row[name]:.2f}" for name in predicted),
                truth["localizations"].replace("|", ", "),
                row["membrane"],
                truth["membrane"],
                "yes" if hit else "no",
            ).rstrip()
        )
    print(
        f"\n{len(known)} proteins: first-named compartment right for {top_right}, all compartments right for "
        f"{exactly_right}, membrane type right for {membrane_right}."
    )


if __name__ == "__main__":
    main()
