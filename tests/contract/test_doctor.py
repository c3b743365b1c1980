"""The preflight: the contract's JSON, and a remedy where something is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from mmenc import doctor
from mmenc.cli import main
from tests.pipeline import tiny_recipe, workplace, write_recipe


def test_json_has_the_form_of_the_contract(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(workplace(tmp_path / "w", corpus))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
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
