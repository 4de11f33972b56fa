"""
Sequences by accession, or by gene and species, from UniProt.

Where the site is offline, or `OPENGPS_LOOKUP=off`, nothing is asked for and the page says where to copy from. Only the
accession, or the gene and the species, leave the site.
"""

import io
import os
import re
from functools import lru_cache

import httpx2
from reading import PAGE, InputError, Reading, read_proteins

from protloc.sequences import SequenceError, read_fasta

SITE = os.environ.get("OPENGPS_UNIPROT", "https://rest.uniprot.org")
ON = os.environ.get("OPENGPS_LOOKUP", "on") != "off" and os.environ.get("HF_HUB_OFFLINE") != "1"
SECONDS = 10  # that UniProt has for an answer
MOST = 100_000  # characters of an answer
SPECIES = {"human": 9606, "mouse": 10090, "rat": 10116, "zebrafish": 7955, "fly": 7227, "worm": 6239}
SPECIES |= {"yeast": 559292, "arabidopsis": 3702}
GENE = re.compile(rf"([A-Za-z][\w.-]{{1,14}})[\s,]+({'|'.join(SPECIES)})", re.IGNORECASE)


def look_up(accessions: list[str]) -> list[tuple[str, str]]:
    """
    Accessions and sequences.

    Raises:
        InputError: If one is unknown, or UniProt can't be asked.
    """
    return [fetch(f"/uniprotkb/{name}.fasta", name) for name in accessions]


def look_up_gene(gene: str, species: str) -> tuple[str, str]:
    """Accession and sequence of the reviewed protein of a gene; errors as of `look_up`."""
    query = f"gene_exact:{gene} AND organism_id:{SPECIES[species.lower()]} AND reviewed:true"
    address = httpx2.URL("/uniprotkb/search", params={"query": query, "format": "fasta", "size": "1"})
    return fetch(str(address), f"{gene} of {species.lower()}")


@lru_cache(maxsize=10_000)
def fetch(path: str, name: str) -> tuple[str, str]:
    by_hand = f"look for it at {PAGE}?query={name.partition(' ')[0]} and paste the sequence."
    if not ON:
        raise InputError(f"{name}: sequences are not looked up here: {by_hand}")
    try:
        with httpx2.stream("GET", f"{SITE}{path}", timeout=SECONDS, follow_redirects=True) as response:
            text = ""
            for part in response.iter_text():
                text += part
                if len(text) > MOST:
                    raise InputError(f"{name}: its sequence is too long.")
            if response.status_code in (400, 404) or (response.status_code == 200 and not text.strip()):
                raise InputError(f"UniProt has no protein {name}: {by_hand}")
            response.raise_for_status()
        ((header, sequence),) = read_fasta(io.StringIO(text))
    except (httpx2.HTTPError, SequenceError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"UniProt can't be asked for {name} now: {by_hand}") from None
    found = header.split("|")
    return (found[1] if len(found) == 3 else header), sequence


def read(text: str, file: str | None = None) -> Reading:
    """`reading.read_proteins`, with accessions and genes of a species (`EGFR human`) looked up."""
    if not file and (gene := GENE.fullmatch((text or "").strip())):
        return Reading([look_up_gene(gene[1], gene[2])], [])
    return read_proteins(text or "", file, look_up if ON else None)
