"""`protloc embed`: states of a sequence encoder on disk."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer

from protloc.embedding import INDEX, Encoder, ResidueEmbeddings, embed, prefetch, sequence_key, weights_digest
from protloc.files import lock
from protloc.models.convert_unirep import build_tokenizer
from protloc.models.modeling_unirep import UniRepModel
from protloc.models.protein_sequence import AMINO_ACIDS
from protloc.models.sequence_encoder_deepgps import encode_sequence, load_backbone
from protloc.packed_attention import packed_attention
from tests.helpers import run_protloc, tiny_deepgps, tiny_unirep

SEQUENCES = ["MKTAYIAKQR", "MK", "MKVLAAGIVGLLLALSAQA", "MK"]


@pytest.mark.parametrize("name", ["esm", "protbert"])
def test_states_are_the_encoders(tiny_backbones, tmp_path, name):
    assert embed(SEQUENCES, tmp_path, str(tiny_backbones[name]), dtype="float32") == 3
    states = ResidueEmbeddings(tmp_path)
    backbone, _ = load_backbone(str(tiny_backbones[name]))
    assert states.size == 16 and states.weights == weights_digest(backbone)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[name])
    for sequence in SEQUENCES:
        tokens = tokenizer(" ".join(sequence) if name == "protbert" else sequence, return_tensors="pt")
        expected = backbone.eval()(**tokens).last_hidden_state[0, 1:-1]
        assert states[sequence].dtype == torch.float16
        torch.testing.assert_close(states[sequence].float(), expected, rtol=0.01, atol=0.01)


def test_a_long_sequence_is_read_in_windows(tiny_backbones, tmp_path):
    model = tiny_deepgps()
    sequence = "MKTAYIAKQR" * 150
    embed([sequence], tmp_path, str(tiny_backbones["esm"]), dtype="float32")
    backbone, _ = load_backbone(str(tiny_backbones["esm"]))
    tokens = AutoTokenizer.from_pretrained(tiny_backbones["esm"])(sequence, return_tensors="pt")
    with torch.no_grad():
        expected = encode_sequence(backbone.eval(), model.config, tokens["input_ids"], tokens["attention_mask"])
    found = ResidueEmbeddings(tmp_path)[sequence].float()
    torch.testing.assert_close(found, expected[0, 1:-1], rtol=0.01, atol=0.01)


def test_packed_attention_keeps_sequences_apart():
    query, key, value = torch.randn(3, 1, 2, 12, 8)
    of = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3])
    expected = scaled_dot_product_attention(query, key, value, attn_mask=of[:, None] == of, scale=0.7)
    starts = torch.tensor([0, 3, 4, 10, 12], dtype=torch.int32)
    found = packed_attention(query, key, value, starts, torch.tensor(6), 0.7)
    torch.testing.assert_close(found, expected.transpose(1, 2))


MANY = ["MKTAYIAKQRLLVAGE"[: 3 + i % 13] * (1 + i % 7) + "ACDEFGHIKL"[i % 10] * (i // 10) for i in range(15)]


@pytest.mark.parametrize("name", ["esm", "protbert", "deeploc"])
def test_states_do_not_depend_on_the_batch(tiny_backbones, tiny_model_dir, name):
    encoder = Encoder(str(tiny_model_dir if name == "deeploc" else tiny_backbones[name]), dtype="float32")
    found = dict(encoder.states(MANY, max_tokens_per_batch=150))
    assert found.keys() == set(MANY)
    for sequence in MANY[::5]:
        [(_, expected)] = encoder.states([sequence])
        assert found[sequence].shape == (len(sequence), encoder.config.sequence_size)
        torch.testing.assert_close(found[sequence], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_read_as_the_model_does(tmp_path, dtype):
    tiny_unirep().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = UniRepModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), dtype=dtype)
    several = dict(encoder.states(MANY, max_tokens_per_batch=150))
    assert several.keys() == set(MANY)
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for found in (several, dict(encoder.states(MANY))):  # the second in one batch, larger than all before it
        for sequence in MANY:
            with torch.no_grad():
                expected = model(**tokenizer(sequence, return_tensors="pt")).last_hidden_state[0, 1:]
            torch.testing.assert_close(found[sequence].float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_compiled_once_for_all_shapes(tiny_backbones):
    expected = dict(Encoder(str(tiny_backbones["esm"]), dtype="float32").states([*MANY, "MKTAYIAKQR" * 150]))
    compiled = Encoder(str(tiny_backbones["esm"]), dtype="float32", compile=True)
    before = counters["stats"]["unique_graphs"]
    found = dict(
        compiled.states(["MKTAYIAKQR" * 150, *MANY], max_tokens_per_batch=100)
    )  # the first packs hold one each
    assert counters["stats"]["unique_graphs"] == before + 1
    for sequence, states in expected.items():
        torch.testing.assert_close(found[sequence], states, rtol=1e-4, atol=1e-5)


def test_prefetch():
    made = []

    def numbers(stop):
        for i in range(stop):
            made.append(i)
            yield i
        raise ValueError("no more")

    items = prefetch(numbers(5))
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(ValueError, match="no more"):
        next(items)
    made.clear()
    items = prefetch(numbers(1000), ahead=3)
    assert next(items) == 0
    items.close()
    assert len(made) <= 4  # the one taken and three ahead


def test_shards_and_resuming(tiny_backbones, tmp_path):
    model = str(tiny_backbones["esm"])
    embed(SEQUENCES[:2], tmp_path, model, dtype="float32")
    (tmp_path / "embeddings-00001.safetensors.partial").write_bytes(b"cut off")  # of a killed run
    assert embed([*SEQUENCES, "MAAAA", "mkt-aaaa*"], tmp_path, model, dtype="float32", shard_bytes=300) == 3
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    files = sorted(set(index.values()))
    assert files == [f"embeddings-{i:05d}.safetensors" for i in range(4)]
    assert all(sequence_key(sequence) in load_file(tmp_path / index[sequence_key(sequence)]) for sequence in SEQUENCES)
    assert "MKTAAAA" in ResidueEmbeddings(tmp_path) and "MQQQ" not in ResidueEmbeddings(tmp_path)
    assert embed(SEQUENCES, tmp_path, model, dtype="float32") == 0


def test_what_an_interrupt_leaves_is_gone_on_with(tiny_backbones, tmp_path):
    def interrupted(wanted):
        yield from wanted[:10]
        raise KeyboardInterrupt

    model = str(tiny_backbones["esm"])
    with pytest.raises(KeyboardInterrupt):
        embed(MANY, tmp_path, model, dtype="float32", shard_bytes=1000, progress=interrupted)
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert 0 < len(index) < len(set(MANY))
    assert all(key in load_file(tmp_path / name) for key, name in index.items())
    assert embed(MANY, tmp_path, model, dtype="float32") == len(set(MANY)) - len(index)
    states = ResidueEmbeddings(tmp_path)
    for sequence, expected in Encoder(model, dtype="float32").states(MANY):
        torch.testing.assert_close(states[sequence].float(), expected, rtol=0.01, atol=0.01)


@pytest.mark.slow
def test_ctrl_c(tiny_backbones, tmp_path):
    out = tmp_path / "out"
    generator = random.Random(0)
    texts = ("".join(generator.choices(AMINO_ACIDS, k=400)) for _ in range(400))
    (tmp_path / "in.fasta").write_text("".join(f">p{i}\n{text}\n" for i, text in enumerate(texts)))
    command = [sys.executable, "-m", "protloc", "embed", tmp_path / "in.fasta", "--model", tiny_backbones["esm"]]
    command += ["-o", out, "--shard-size", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (out / INDEX).exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == f"protloc: stopped; start again to resume {out}\n"
    index = json.loads((out / INDEX).read_text())["weight_map"]
    assert 0 < len(index) < 400
    assert all(load_file(out / name) for name in set(index.values()))
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{400 - len(index)} sequences added" in result.stderr


def test_parquet_is_named_with_column_and_row(tiny_backbones, tmp_path):
    path = tmp_path / "p.parquet"
    for column, message in (
        (["MKTAYIAKQR", "MK*T"], "record 'row 2', row 2: '*' at position 3 is not an amino-acid code"),
        ([["M"], ["K"]], "the column 'sequence' holds list<element: string>, not text"),
        ([1, 2], "the column 'sequence' holds int64, not text"),
    ):
        pq.write_table(pa.table({"sequence": column}), path)
        code, _, err = run_protloc("embed", path, "-o", tmp_path / "out", "--model", tiny_backbones["esm"])
        assert code == 2 and err.startswith(f"protloc: {path}") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_processes_never_share_a_folder(tiny_backbones, tmp_path):
    held = f"{tmp_path} is being written by process"
    with lock(tmp_path / ".lock", tmp_path), pytest.raises(ValueError, match=held):
        embed(["MK"], tmp_path, str(tiny_backbones["esm"]))
    assert embed(["MK"], tmp_path, str(tiny_backbones["esm"])) == 1 and not (tmp_path / ".lock").exists()


def test_a_full_disk(tiny_backbones, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"embeddings-00000.safetensors: .*File too large.*: make room and start"):
            embed(["MKTAYIAKQR" * 30], tmp_path, str(tiny_backbones["esm"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_memory_running_out_halves_the_batches(tiny_backbones, caplog):
    encoder = Encoder(str(tiny_backbones["esm"]), dtype="float32")
    expected = dict(encoder.states(MANY))

    def limited(module, arguments, inputs):
        if inputs["input_ids"].numel() > limit:
            raise RuntimeError("could not create a primitive")

    limit = 200
    encoder.backbone.register_forward_pre_hook(limited, with_kwargs=True)
    for sequence, states in encoder.states(MANY):
        torch.testing.assert_close(states, expected[sequence], rtol=1e-4, atol=1e-5)
    assert "memory ran out: a batch of" in caplog.text
    limit = 20
    with pytest.raises(ValueError, match=r"memory does not suffice for .* residues at once"):
        list(encoder.states(MANY))


def test_compiling_is_refused_in_one_sentence(tiny_backbones, tiny_model_dir, tmp_path, monkeypatch):
    (tmp_path / "in.fasta").write_text(">a\nMKTAYIAKQR\n")
    arguments = ("embed", tmp_path / "in.fasta", "-o", tmp_path / "out", "--compile", "--model")
    code, _, err = run_protloc(*arguments, tiny_model_dir)
    assert code == 2 and "only ESM-2 and BERT are compiled" in err
    monkeypatch.setenv("CXX", "/nowhere/c++")
    code, _, err = run_protloc(*arguments, tiny_backbones["esm"])
    assert code == 2 and err == (
        "protloc: --compile needs a C++ compiler: install g++, name yours in CXX, or leave --compile out\n"
    )


def test_bad_input(tiny_backbones, tmp_path):
    with pytest.raises(ValueError, match="make it with protloc embed"):
        ResidueEmbeddings(tmp_path)
    embed(["MK"], tmp_path / "states", str(tiny_backbones["esm"]))
    with pytest.raises(ValueError, match="has no embedding of MKV"):
        ResidueEmbeddings(tmp_path / "states")["MKV"]
    with pytest.raises(ValueError, match="choose another folder"):
        embed(["MK"], tmp_path / "states", str(tiny_backbones["protbert"]))
    with pytest.raises(ValueError, match="cannot use the device 'cuda'"):
        embed(["MK"], tmp_path / "other", str(tiny_backbones["esm"]), device="cuda")
    with pytest.raises(ValueError, match="cannot load the model '/nowhere'"):
        embed(["MK"], tmp_path / "other", "/nowhere")
    shutil.rmtree(tmp_path / "states")
