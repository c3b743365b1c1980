"""The preflight: the contract's JSON, and a remedy where something is wrong."""

from __future__ import annotations

import json
import socket
import time

import pytest
import torch

from mmenc import access, doctor
from mmenc.cli import main
from tests.pipeline import tiny_recipe, workplace, write_recipe


def test_json_has_the_form_of_the_contract(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace(tmp_path / "w", corpus))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    code = main(["doctor", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"ok", "checks"}
    assert all(set(c) == {"name", "ok", "found", "remedy"} for c in data["checks"])
    bad = [c["name"] for c in data["checks"] if not c["ok"]]
    assert bad == ["git"]
    assert code == 1
    assert next(c for c in data["checks"] if c["name"] == "attention")["ok"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is meant")
def test_a_recipe_that_asks_for_a_gpu_is_told_what_to_do(corpus, tmp_path, monkeypatch, capsys):
    folder = workplace(tmp_path / "w", corpus)
    recipe = tiny_recipe()
    recipe["compute"]["device"] = "cuda"
    write_recipe(folder, recipe)
    monkeypatch.chdir(folder)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert "set compute.device to cpu" in captured.err
    assert "✕" in captured.out


def test_a_kernel_that_is_wrong_is_found(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace(tmp_path / "w", corpus))
    from mmenc.model import attention

    right = attention.attention
    monkeypatch.setattr(attention, "attention", lambda *a, **k: right(*a, **k) * 1.01)
    checks = {c.name: c for c in doctor.examine(tmp_path / "w" / "params.yaml")}
    assert not checks["attention"].ok


def test_a_broken_recipe_is_a_check(tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["ok"]


def cluster(**env: str) -> doctor.Check:
    return doctor.Check("cluster", *access.examine(env))


def test_no_cluster_is_fine_and_says_how_to_name_one():
    found = cluster()
    assert found.ok
    assert "none configured; `export KF_PIPELINES_ENDPOINT=" in found.found


def test_a_cluster_is_asked_who_it_is_and_whether_it_lets_us_in(tmp_path):
    pytest.importorskip("kfp")
    from tests.kfp_server import kfp_server

    with kfp_server() as server:
        found = cluster(KF_PIPELINES_ENDPOINT=server.url + "/")
        assert found.ok
        assert f"{server.url}: API v2beta1, version not told, single-user; accepts a request without" in found.found
        server.token = "right"
        found = cluster(KF_PIPELINES_ENDPOINT=server.url)
        assert not found.ok
        assert "(401); give --token-file" in found.found
        assert "KF_PIPELINES_ENDPOINT" in found.remedy
        found = cluster(KF_PIPELINES_ENDPOINT=server.url, KF_PIPELINES_TOKEN="wrong")
        assert "it is wrong or has expired" in found.found
        assert cluster(KF_PIPELINES_ENDPOINT=server.url, KF_PIPELINES_TOKEN="right").ok
        server.namespaces = {"alice"}
        several = {"KF_PIPELINES_ENDPOINT": server.url, "KF_PIPELINES_TOKEN": "right"}
        assert "multi-user; credentials not tried" in cluster(**several).found
        assert cluster(**several, KF_PIPELINES_NAMESPACE="alice").found.endswith("accepts the token in $KF_PIPELINES_TOKEN")
        assert "in namespace bob (403)" in cluster(**several, KF_PIPELINES_NAMESPACE="bob").found
        server.login = True
        assert "answers with a web page" in cluster(**several).found
        server.login = False
        assert "(404)" in cluster(KF_PIPELINES_ENDPOINT=f"{server.url}/x").found


def test_a_cluster_that_is_away_or_silent_takes_seconds(monkeypatch):
    monkeypatch.setattr(access, "PATIENCE", 0.2)
    begun = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        here = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = cluster(KF_PIPELINES_ENDPOINT=here)  # bound, not listening
        assert not found.ok
        assert "does not answer" in found.found
        silent.listen(1)
        found = cluster(KF_PIPELINES_ENDPOINT=here)  # takes the connection and says nothing
        assert not found.ok
        assert "does not answer (timed out)" in found.found
    monkeypatch.setattr(access, "_examine", lambda *_: time.sleep(30))
    assert "gave no answer in" in cluster(KF_PIPELINES_ENDPOINT=here).found
    assert time.monotonic() - begun < 10
    assert "expected http://" in cluster(KF_PIPELINES_ENDPOINT="localhost").found


def test_doctor_shows_the_cluster_among_its_checks(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace(tmp_path / "w", corpus))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "localhost")
    assert not {c.name: c for c in doctor.examine(tmp_path / "w" / "params.yaml")}["cluster"].ok
