"""Bad input, full disks and killed processes: one clear sentence, exit code 1, nothing lost, and equal results after."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from mmenc.artifact import read_json
from mmenc.cli import main
from mmenc.lock import locked
from mmenc.prepare import prepare
from tests.pipeline import commands, contents, run_all, run_stage, tiny_recipe, workplace, write_recipe

GOOD = '{"text": "All human beings are born free and equal in dignity and rights."}\n'


def fails(capsys, code: int = 1) -> str:
    """The one sentence of the last command."""
    err = capsys.readouterr().err
    assert err.startswith("mmenc: ")
    assert err.count("\n") == 1, err
    return err


def damage(kind: str, data: Path) -> None:
    folder = data / "fao_Latn"
    if kind == "empty language":
        shutil.rmtree(folder)
        folder.mkdir()
    elif kind == "empty file":
        (folder / "udhr.jsonl").write_text("")
    elif kind == "not utf-8":
        (folder / "more.txt").write_bytes("Øll menniskju".encode("latin-1"))
    elif kind == "cut line":
        path = folder / "udhr.jsonl"
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "cut zstd":
        (folder / "more.jsonl.zst").write_bytes(zstandard.compress((GOOD * 500).encode())[:-9])
    elif kind == "cut gzip":
        (folder / "more.jsonl.gz").write_bytes(gzip.compress((GOOD * 500).encode())[:-9])
    elif kind == "no text":
        (folder / "more.jsonl").write_text('{"body": "x"}\n')
    elif kind == "unknown kind":
        (folder / "more.docx").write_text("x")
    elif kind == "bad tag":
        folder.rename(data / "Faroese")
    elif kind == "stray file":
        (data / "notes.txt").write_text("x")
    elif kind == "same id":
        (folder / "more.jsonl").write_text('{"id": "1", "text": "a"}\n{"id": "1", "text": "b"}\n')
    elif kind == "missing":
        shutil.rmtree(data)
    elif kind == "link out":
        (folder / "out.txt").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("empty language", "data/fao_Latn: holds no documents"),
        ("not utf-8", "data/fao_Latn/more.txt: line 1 is not UTF-8"),
        ("cut line", "data/fao_Latn/udhr.jsonl: line 31 is not JSON and the file ends in the middle of it: it was cut off"),
        ("cut zstd", "data/fao_Latn/more.jsonl.zst: cut off or damaged after line"),
        ("cut gzip", "data/fao_Latn/more.jsonl.gz: cut off or damaged after line"),
        ("no text", "data/fao_Latn/more.jsonl: line 1 has no text"),
        ("unknown kind", "data/fao_Latn/more.docx: unknown kind of file"),
        ("bad tag", "data/Faroese: not a language tag"),
        ("stray file", "data/notes.txt: lies beside the language folders"),
        ("same id", "data/fao_Latn/more.jsonl: the id '1' is used twice"),
        ("missing", "data: no such directory"),
        ("link out", "data/fao_Latn/out.txt: is a link that leaves the folder"),
    ],
)
def test_bad_raw_data_is_one_sentence(corpus: Path, tmp_path: Path, monkeypatch, capsys, kind, expected):
    folder = workplace(tmp_path / "w", corpus)
    damage(kind, folder / "data")
    assert run_stage(folder, commands(folder)["ingest"], monkeypatch) == 1
    assert f"mmenc: {expected}" in fails(capsys)
    assert not (folder / "artifacts" / "ingest").exists()


def test_a_folder_of_plain_text_files_is_enough(tmp_path: Path, monkeypatch, corpus):
    folder = workplace(tmp_path / "w", corpus)
    own = folder / "my-text" / "fao_Latn"
    own.mkdir(parents=True)
    (own / "book.txt").write_text("Fyrsta grein.\n\n" * 3000 + "Síðsta grein", encoding="utf-8")
    recipe = tiny_recipe()
    recipe["ingest"] |= {"root": "my-text", "document_bytes": 10_000, "license": "own"}
    write_recipe(folder, recipe)
    assert run_stage(folder, commands(folder)["ingest"], monkeypatch) == 0
    from mmenc.artifact import read_json

    facts = read_json(folder / "artifacts" / "ingest" / "manifest.json")["facts"]
    assert facts["languages"]["fao_Latn"]["documents"] == 5
    assert facts["sources"][0] == {
        "path": "fao_Latn/book.txt",
        "language": "fao_Latn",
        "bytes": facts["total"]["bytes"],
        "documents": 5,
        "source": "book",
        "license": "own",
    }


def test_a_users_own_text_file_becomes_a_model(sample: Path, tmp_path, monkeypatch, corpus, capsys):
    """One plain text file of one language, as the README says; and too few documents for a held-out set are a sentence."""
    texts = [json.loads(line)["text"] for line in (sample / "fin_Latn" / "homeassistant.jsonl").read_text().splitlines()]
    folder = workplace(tmp_path / "w", corpus)
    (folder / "my-text" / "fin_Latn").mkdir(parents=True)
    (folder / "my-text" / "fin_Latn" / "book.txt").write_text("\n\n".join(texts), encoding="utf-8")
    recipe = tiny_recipe()
    recipe["languages"] = {"own": "all"}
    recipe["ingest"] |= {"root": "my-text"}
    recipe["phases"] = {
        n: {**recipe["phases"][n], "languages": "own", "buckets": {}} for n in ("pretrain", "extend", "decay-all")
    }
    recipe["merge"]["branches"] = ["decay-all"]
    write_recipe(folder, recipe)
    run_all(folder, monkeypatch)
    assert (folder / "artifacts" / "release" / "model.safetensors").exists()
    capsys.readouterr()
    recipe["ingest"]["document_bytes"] = 60_000
    write_recipe(folder, recipe)
    stages = commands(folder)
    for name in ("ingest", "clean", "validate", "tokenizer"):
        assert run_stage(folder, stages[name], monkeypatch) == 0
    capsys.readouterr()
    assert run_stage(folder, stages["tokenize"], monkeypatch) == 1
    assert "with a smaller ingest.document_bytes" in fails(capsys)


def test_an_artifact_whose_bytes_do_not_match_its_manifest_is_refused(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    shard = copy / "artifacts" / "clean" / "shards" / "fao_Latn" / "00000.jsonl.zst"
    shard.write_bytes(shard.read_bytes()[:-1])
    shutil.rmtree(copy / "artifacts" / "tokenize")
    assert run_stage(copy, commands(copy)["tokenize"], monkeypatch) == 1
    assert "00000.jsonl.zst: sha256 is" in fails(capsys)


def test_words_that_are_wrong_are_named(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["run", "tokenise", "--out", "x"]) == 1
    assert "no step is called 'tokenise'; did you mean 'tokenize'?" in fails(capsys)
    assert main(["run", "clean@9", "--out", "x", "raw=artifacts/ingest"]) == 1
    assert "this mmenc has version 2 of the step" in fails(capsys)
    assert main(["run", "clean", "--out", "x"]) == 1
    assert "role raw is missing" in fails(capsys)
    assert main(["run", "train", "--name", "extent", "--out", "x", "tokens=artifacts/tokenize"]) == 1
    assert "no instance is called 'extent'; the recipe has pretrain" in fails(capsys)
    assert main(["run", "clean", "--out", "x", "raw=artifacts/nothing"]) == 1
    assert "artifacts/nothing: no such directory" in fails(capsys)
    with pytest.raises(SystemExit) as usage:
        main(["run", "clean", "--oops"])
    assert usage.value.code == 2


def test_a_phase_that_drops_a_language_of_its_parent_is_refused_before_a_step(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    recipe = tiny_recipe()
    recipe["languages"]["middle"] = ["eng_Latn", "zul_Latn", "ell_Grek"]
    recipe["languages"]["tail"] = ["eng_Latn", "zul_Latn", "ell_Grek", "deu_Latn"]
    write_recipe(copy, recipe)
    state = copy / "artifacts" / "train" / "extend" / "state.json"
    assert "fao_Latn" not in recipe["languages"]["tail"]
    trained = set(json.loads(state.read_text())["languages"])
    dropped = sorted(trained - set(recipe["languages"]["tail"]))
    if not dropped:
        pytest.skip("the slice's three largest languages are all listed")
    stages = commands(copy)
    assert run_stage(copy, stages["mixture@decay-all"], monkeypatch) == 0
    capsys.readouterr()
    assert run_stage(copy, stages["train@decay-all"], monkeypatch) == 1
    assert f"drops {dropped[0]}, which its parent extend was trained on" in fails(capsys)


def test_two_runs_on_one_resume_folder(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    from mmenc.artifact import read_json

    digest = read_json(copy / "artifacts" / "train" / "extend" / "manifest.json")["digest"]
    shutil.rmtree(copy / "artifacts" / "train" / "extend")
    with (copy / "artifacts" / ".resume" / f"{digest}.lock").open("w") as handle:
        handle.write("4711")
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert run_stage(copy, commands(copy)["train@extend"], monkeypatch) == 1
    assert "process 4711 is already running this step" in fails(capsys)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_what_was_there(finished, tmp_path, monkeypatch, capsys):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        words = commands(finished)["tokenize"]
        words[words.index("--out") + 1] = str(small / "artifacts" / "tokenize")
        assert run_stage(finished, words, monkeypatch) == 1
        assert "no space left on the device; nothing was changed" in fails(capsys)
        assert not list(small.rglob("*.bin"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    code = "import sys; from mmenc.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_anywhere_at_random_then_run_again_gives_equal_content(finished, corpus, tmp_path, monkeypatch):
    """Every stage is hit once by a random signal at a random moment, some more often; what follows must not notice."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    folder = workplace(tmp_path / "w", corpus)
    hit = 0
    for name, words in commands(folder).items():
        for _ in range(3 if name.startswith("train") else 1):
            if name.startswith(("mixture", "evaluate@")) and dice.random() < 0.7:
                continue
            number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            process = start(folder, words)
            time.sleep(dice.uniform(0.3, 4.0 if name.startswith(("train", "validate")) else 2.0))
            process.send_signal(number)
            _, err = process.communicate()
            hit += process.returncode != 0
            if number == signal.SIGTERM and process.returncode not in (0, -signal.SIGTERM):
                assert process.returncode == 75, err
        assert run_stage(folder, words, monkeypatch) == 0, name
    assert hit > 5
    left, expected = contents(folder), contents(finished)
    assert left == expected, f"seed {seed}"
    assert not [p for p in (folder / "artifacts").rglob(".tmp*") if ".runs" not in p.parts]
    assert not [p for p in (folder / "artifacts" / ".resume").iterdir() if p.is_dir()]


def test_sigterm_in_training_saves_its_state_and_goes_on(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    expected = contents(finished)["train/pretrain"]
    shutil.rmtree(copy / "artifacts" / "train" / "pretrain")
    recipe = tiny_recipe()
    recipe["compute"]["checkpoint_seconds"] = 1000
    write_recipe(copy, recipe)
    words = commands(copy)["train@pretrain"]
    from mmenc import stop
    from mmenc.train import step as training

    original = training.Trainer.step

    def stop_at_seven(self, made):
        if self.loop.step == 7 and not stop.requested:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, made)

    monkeypatch.setattr(training.Trainer, "step", stop_at_seven)
    assert run_stage(copy, words, monkeypatch) == 75
    assert "stopped at step 8, its state is saved" in fails(capsys)
    monkeypatch.setattr(training.Trainer, "step", original)
    assert run_stage(copy, words, monkeypatch) == 0
    assert "resumed at step 8" in capsys.readouterr().out
    assert contents(copy)["train/pretrain"] == expected


def test_a_damaged_newest_checkpoint_falls_back(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    expected = contents(finished)["train/pretrain"]
    from mmenc.artifact import read_json

    digest = read_json(copy / "artifacts" / "train" / "pretrain" / "manifest.json")["digest"]
    shutil.rmtree(copy / "artifacts" / "train" / "pretrain")
    recipe = tiny_recipe()
    recipe["compute"]["checkpoint_seconds"] = 0
    write_recipe(copy, recipe)
    words = commands(copy)["train@pretrain"]
    from mmenc.train import step as training

    original = training.Trainer.step

    def die_at_nine(self, made):
        if self.loop.step == 9:
            raise RuntimeError("killed")
        return original(self, made)

    monkeypatch.setattr(training.Trainer, "step", die_at_nine)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(copy, words, monkeypatch)
    monkeypatch.setattr(training.Trainer, "step", original)
    saved = sorted(p for p in (copy / "artifacts" / ".resume" / digest).iterdir())
    assert [int(p.name) for p in saved] == [8, 9]
    (saved[-1] / "model.safetensors").write_bytes(b"half")
    capsys.readouterr()
    assert run_stage(copy, words, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "is damaged, falling back" in out
    assert "resumed at step 8" in out
    assert contents(copy)["train/pretrain"] == expected


def test_dvc_repro_killed_then_again_gives_equal_content(finished, corpus, tmp_path, monkeypatch):
    """The real thing: git, dvc, processes; killed once in the middle; then dvc finds everything up to date."""
    folder = workplace(tmp_path / "w", corpus)
    dvc = str(Path(sys.executable).with_name("dvc"))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)

    call("git", "init", "-q")
    for words in (
        ("init", "-q"),
        ("config", "core.analytics", "false"),
        ("config", "cache.type", "hardlink,symlink"),
        ("add", "-q", "data"),
    ):
        assert call(dvc, *words).returncode == 0
    (folder / ".dvcignore").write_text(".tmp.*\nartifacts/.runs\nartifacts/.resume\n")
    process = subprocess.Popen(
        [dvc, "repro"], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (folder / "artifacts" / "train" / "pretrain").exists():
        time.sleep(0.2)
        assert process.poll() is None
    time.sleep(random.uniform(0.5, 4))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # DVC may have been killed while it wrote its lock file; `make run` begins with this.
    monkeypatch.chdir(folder)
    prepare(Path("params.yaml"))
    done = call(dvc, "repro")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert contents(folder) == contents(finished)
    again = call(dvc, "repro")
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout + again.stderr
    assert "train@pretrain" in call(dvc, "dag").stdout

    # A lock file cut inside a stage's name, and in the middle of a stage that still parses.
    lock = (folder / "dvc.lock").read_text()
    for cut in (lock.index("  train@pretrain:") + 8, lock.index("  train@pretrain:") + 30):
        (folder / "dvc.lock").write_text(lock[:cut])
        prepare(Path("params.yaml"))
        done = call(dvc, "repro")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "train pretrain: up to date" in done.stdout
        assert contents(folder) == contents(finished)
        assert (folder / "dvc.lock").read_text() == lock
    assert (folder / "dvc.lock.broken").read_text() == lock[: lock.index("  train@pretrain:") + 8]


def test_what_a_killed_process_left_beside_its_result_is_removed(finished, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(finished, tmp_path / "copy")
    digest = read_json(copy / "artifacts" / "clean" / "manifest.json")["digest"]
    left = copy / "artifacts" / ".resume" / digest
    left.mkdir(parents=True)
    (left / "part").write_text("x")
    words = commands(copy)["clean"]
    with locked(left):  # another process is at work with it
        assert run_stage(copy, words, monkeypatch) == 0
        assert left.exists()
    assert run_stage(copy, words, monkeypatch) == 0
    assert "clean: up to date" in capsys.readouterr().out
    assert not left.exists()
    assert not left.with_suffix(".lock").exists()


def test_run_all_is_what_dvc_runs(finished):
    """The helper of these tests covers every stage."""
    assert len(commands(finished)) == 9 + 3 * len(tiny_recipe()["phases"]) + 1
    assert run_all is not None
