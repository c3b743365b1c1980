"""Benchmarks: JSON of the contract, every line that a CPU can run, a sentence where something is missing. No figure counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from benchmarks import feeds, scale
from benchmarks.gpu_profile import classify
from benchmarks.gpu_sides import make_batch, packed, padded
from mmenc.data.shards import read_documents
from mmenc.data.tokens import BOS, EOS, SplitWriter
from tests.pipeline import TINY_LANGUAGES

KEYS = {"name", "setting", "unit", "ours", "peer", "peer_name", "peer_version", "ratio", "limit", "of_limit"}
ROOT = Path(__file__).parents[2]


def module(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)


def rows_of(path: Path) -> list[dict]:
    rows = json.loads(path.read_text())
    for row in rows:
        assert set(row) == KEYS
        assert row["ratio"] == (row["ours"] / row["peer"] if row["peer"] else None)
        assert row["of_limit"] == (row["ours"] / row["limit"] if row["limit"] else None)
    return rows


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """A small folder laid out as artifacts/tokenize."""
    folder = tmp_path_factory.mktemp("tokens")
    random = np.random.default_rng(1)
    sizes = {"aaa_Latn": 200, "bbb_Latn": 90, "ccc_Latn": 4}
    writer = SplitWriter(folder / "train", 8192, sum(sizes.values()))
    folders = {}
    for name, count in sizes.items():
        lengths = np.clip(random.lognormal(5, 1, count), 8, 3_000).astype("<u4")
        documents = [np.array([BOS, *random.integers(5, 8192, n - 2), EOS], writer.dtype) for n in lengths.tolist()]
        piece = folder / f"piece-{name}"
        piece.mkdir()
        np.concatenate(documents).tofile(piece / "train.tokens")
        lengths.tofile(piece / "train.lengths")
        writer.append(piece)
        folders[name] = {"documents": count, "tokens": int(lengths.sum()), "bytes": 0}
    writer.close(folders)
    return folder


def test_committed_results_have_the_contracts_shape():
    paths = sorted((ROOT / "benchmarks/results").glob("*.json"))
    assert {p.stem for p in paths} >= {"cpu", "loader"}
    for path in paths:
        for row in rows_of(path):
            assert row["ours"] > 0
            assert "TINY" not in row["setting"]


def test_the_loader_runs_and_says_which_peers_are_missing(tokens, tmp_path):
    out = tmp_path / "loader.json"
    done = module(
        "loader",
        "--tokens",
        tokens,
        "--millions",
        0.2,
        "--seconds",
        0.05,
        "--rounds",
        1,
        "--json",
        out,
        "--peers",
        tmp_path / "no",
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(out)
    assert {r["setting"].split(",")[1].strip() for r in rows} == {"rows of 1024", "rows of 8192"}
    for row in rows:
        assert row["ours"] > 0
        assert (row["peer"] > 0) == bool(row["peer_version"])
        assert row["peer"] or "not installed" in row["peer_name"]


def test_the_loader_without_tokens_is_a_sentence(tmp_path):
    done = module("loader", "--tokens", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("no tokens there; run `make run` first or name another folder with --tokens")


def test_peers_do_with_documents_what_ours_does():
    documents = [np.array([BOS, *range(10, 10 + n), EOS], dtype=np.uint16) for n in (5, 300, 40, 62, 62)]
    size = sum(map(len, documents))

    def epoch():
        yield documents[:2]
        yield documents[2:]

    joined = feeds.joined(epoch, size, 64)
    assert next(joined) == size // 64 * 64
    packed_ = feeds.packed(epoch, size, 64, 0.3, 8192)
    # 302 tokens in rows of 64 (62 of content each) are five pieces: four more bos and eos than the document has.
    assert next(packed_) == size + 4 * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_the_gpu_benchmark_is_a_sentence():
    done = module("gpu")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("benchmarks.gpu: torch finds no CUDA device here")


def test_the_gpu_benchmark_runs_on_a_cpu_and_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "gpu.json"
    first = module("gpu", "--tiny", "--seconds", 0.05, "--rounds", 1, "--json", out)
    assert first.returncode == 0, first.stderr
    rows = rows_of(out)
    assert "left out" not in first.stdout, first.stdout
    for model in ("small", "base"):
        for case in ("rows of 64, mask 0.3", "rows of 256, mask 0.05"):
            for documents in ("documents as long as the row", "real lengths"):
                own = [r for r in rows if f"{model}, {case}, {documents}" in r["setting"]]
                assert len(own) == 3  # eager, compiled; and the other peer
                assert all(r["setting"].startswith("TINY on a CPU, no measurement") for r in own)
    profile = json.loads(out.with_suffix(".profile.json").read_text())
    assert len(profile) == 8
    assert all(abs(sum(p["shares"].values()) - 1) < 1e-6 for p in profile.values())
    # A part of the rows is there: what is missing is measured, what is there stays.
    out.write_text(json.dumps(rows[:-3]))
    second = module("gpu", "--tiny", "--seconds", 0.05, "--rounds", 1, "--json", out, "--minutes", 5)
    assert second.returncode == 0, second.stderr
    assert "base: 1 comparisons" in second.stdout
    assert "small:" not in second.stdout
    again = rows_of(out)
    assert again[:-3] == rows[:-3]
    assert len(again) == len(rows)
    assert "not measured" not in second.stdout


def test_batches_of_both_sides_hold_the_same_tokens():
    batch = make_batch(True, 1_024, 0.15, 65_536, 512, 3)
    assert 65_536 - 2 <= batch.tokens <= 1.02 * 65_536  # a bos and eos more for each piece
    ours = packed(batch, 8_192)
    assert all(len(ids_T) <= 8_192 for ids_T, _, _ in ours)
    assert sum(len(ids_T) for ids_T, _, _ in ours) == batch.tokens
    count = {True: 0, False: 0}
    for by_length in count:
        parts = padded(by_length)(batch, 8_192)
        assert all(p["input_ids"].size <= 8_192 for p in parts)
        assert sum(int(p["attention_mask"].sum()) for p in parts) == batch.tokens
        assert sum(int((p["labels"] >= 0).sum()) for p in parts) == sum(int((labels_T >= 0).sum()) for _, labels_T, _ in ours)
        count[by_length] = sum(p["input_ids"].size for p in parts)
    assert batch.tokens <= count[True] < 1.25 * batch.tokens < 1.5 * batch.tokens < count[False]
    whole = make_batch(False, 256, 0.15, 4_096, 512, 3)
    assert [len(d.input_T) for d in whole.documents] == [256] * 16


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_NTN", "matrix products"),
        ("void at::native::vectorized_layer_norm_kernel<float>", "norms"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", "element-wise, fused"),
        ("Memcpy HtoD (Pageable -> Device)", "copies"),
        ("something_else", "other"),
    ],
)
def test_kernels_have_a_class(kernel, kind):
    assert classify(kernel) == kind


def test_copies_of_a_corpus_go_through_the_data_steps_and_their_memory_is_said(corpus, tmp_path):
    source, raw = tmp_path / "corpus", tmp_path / "out" / "raw"
    source.mkdir()
    for tag in TINY_LANGUAGES[:3]:
        lines = [row for path in sorted((corpus / tag).glob("*")) for row in read_documents(path)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (source / f"{tag}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    done = module("scale", source, tmp_path / "out", "--copies", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == list(scale.SHARED)
    assert all(50 < int(row[3]) < 2_000 and row[4] == "MB" for row in rows)
    for path in source.iterdir():
        before = list(read_documents(path))
        after = list(read_documents(raw / path.name.split(".")[0] / "text.jsonl.zst"))
        assert [d["text"] for d in after[::2]] == [d["text"] for d in before]
        assert [sorted(d["text"]) for d in after[1::2]] == [sorted(d["text"]) for d in before]
        assert len({d["id"] for d in after}) == 2 * len(before)
        assert sum(a["text"] != b["text"] for a, b in zip(after[1::2], before, strict=True)) > 0.9 * len(before)
