"""Sequences by accession or gene, from a server on this machine that answers as UniProt's does."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import lookup
import pytest
from reading import InputError

from training.common.cards import INSULIN


class UniProt(BaseHTTPRequestHandler):
    """One protein, and what it was asked."""

    def do_GET(self):
        self.server.asked.append(self.path)
        known = self.path == "/uniprotkb/P01308.fasta" or "gene_exact%3AINS" in self.path
        body = f">sp|P01308|INS_HUMAN Insulin OS=Homo sapiens\n{INSULIN}\n" if known else ""
        self.send_response(200 if known or "search" in self.path else 404)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def uniprot(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), UniProt)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(lookup, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(lookup, "ON", True)
    lookup.fetch.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    lookup.fetch.cache_clear()


def test_an_accession_and_a_gene_are_looked_up_once(uniprot):
    assert lookup.read("P01308").proteins == [("P01308", INSULIN)]
    assert lookup.read(" P01308 ").proteins == [("P01308", INSULIN)] and len(uniprot.asked) == 1
    assert lookup.read("INS human").proteins == [("P01308", INSULIN)]
    assert "organism_id%3A9606" in uniprot.asked[1] and "reviewed%3Atrue" in uniprot.asked[1]


def test_what_uniprot_does_not_have(uniprot):
    with pytest.raises(InputError, match="UniProt has no protein P08684: look for it at"):
        lookup.read("P08684")
    with pytest.raises(InputError, match="UniProt has no protein ABCD of mouse"):
        lookup.read("ABCD, mouse")
    uniprot.shutdown()
    uniprot.server_close()
    with pytest.raises(InputError, match="UniProt can't be asked for O24646 now"):
        lookup.read("O24646")
