"""The poster: one comment per kind, updated and never repeated; the token goes to one host only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmenc.errors import Refused
from mmenc.retrain import post as poster
from mmenc.retrain.post import cut, marker, post
from tests import forge
from tests.pipeline import REPO


@pytest.fixture
def server(monkeypatch) -> Iterator[forge.Forge]:
    monkeypatch.setattr(poster, "PAUSE", 0.01)
    with forge.running() as found:
        yield found


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "plan.md"
    path.write_text("### Retraining\n\nNothing retrains.\n")
    return path


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_comment_is_made_then_left_then_updated(server, text, kind):
    env = getattr(server, kind)()
    assert post(text, "plan", env, "7") == "comment 100 posted"
    assert server.comments[0]["body"] == "<!-- mmenc:plan -->\n### Retraining\n\nNothing retrains.\n"
    assert post(text, "plan", env, "7") == "comment 100 says so already"
    text.write_text("### Retraining\n\nOne phase.\n")
    assert post(text, "plan", env, "7") == "comment 100 updated"
    assert post(text, "metrics", env, "7") == "comment 101 posted"
    assert [c["body"].splitlines()[0] for c in server.comments] == [marker("plan"), marker("metrics")]
    assert not any(forge.TOKEN in line for line in server.asked)


def test_somebody_else_who_writes_the_marker_is_left_alone_and_later_pages_are_read(server, text):
    for i in range(130):
        server.add(f"{marker('plan') if i == 3 else ''} words {i}", "somebody")
    assert post(text, "plan", server.github(), "7") == "comment 230 posted"
    assert post(text, "plan", server.github(), "7") == "comment 230 says so already"
    assert server.comments[3]["body"].endswith("words 3")


def test_the_request_is_that_of_the_job_or_of_the_merged_commit(server, text, tmp_path):
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    assert "posted" in post(text, "plan", server.github(GITHUB_EVENT_PATH=str(event)))
    event.write_text(json.dumps({"ref": "refs/heads/main"}))
    push = server.github(GITHUB_EVENT_PATH=str(event), GITHUB_SHA="abc123")
    assert post(text, "plan", push) == "no pull request belongs to this; nothing posted"
    server.pulls = [{"number": 9, "merged_at": None}, {"number": 7, "merged_at": "2026-01-01"}]
    assert post(text, "plan", push) == "comment 100 says so already"
    server.comments.clear()
    merged = server.gitlab(CI_MERGE_REQUEST_IID="", CI_COMMIT_SHA="abc123")
    assert post(text, "plan", merged) == "comment 100 posted"
    assert post(text, "plan", server.gitlab(CI_MERGE_REQUEST_IID="")) == "no pull request belongs to this; nothing posted"


def test_a_lost_answer_makes_no_second_comment(server, text):
    server.faults = [503, 429]
    assert "posted" in post(text, "plan", server.github(), "7")
    server.comments.clear()
    env, asked = server.github(), len(server.asked)
    # The list is answered, the answer to the write is lost: looking again finds the comment.
    original = forge.Handler.answer

    def lose(handler, at, body):
        if handler.command == "POST" and not server.comments:
            server.add(body["body"], forge.BOT)
            raise ConnectionAbortedError
        return original(handler, at, body)

    forge.Handler.answer = lose
    server.handle_error = lambda *_: None
    try:
        assert post(text, "plan", env, "7") == "comment 100 says so already"
    finally:
        forge.Handler.answer = original
    assert len(server.comments) == 1
    assert len(server.asked) > asked + 2


def test_refusals_are_sentences_without_the_token(server, text):
    cases = [
        ({**server.github(), "GITHUB_TOKEN": "wrong-secret"}, "the service answers 401; the token is wrong or has expired"),
        ({**server.github(), "GITHUB_REPOSITORY": "team/other"}, "answers 404; no such request or repository"),
        ({**server.github(), "GITHUB_API_URL": "http://api.example"}, "expected an https:// address"),
        ({**server.github(), "GITHUB_TOKEN": ""}, "GITHUB_TOKEN is not set"),
        ({**server.gitlab(), "GITLAB_TOKEN": ""}, "GITLAB_TOKEN is not set"),
    ]
    for env, sentence in cases:
        with pytest.raises(Refused, match=sentence) as caught:
            post(text, "plan", env, "7")
        assert "secret" not in str(caught.value)
    server.faults = [500] * 4
    with pytest.raises(Refused, match="the service answers 500, 4 times"):
        post(text, "plan", server.github(), "7")
    with pytest.raises(Refused, match="expected the number"):
        post(text, "plan", server.github(), "../7")


def test_a_redirect_does_not_carry_the_token_away(server, text):
    with forge.running() as other:
        server.faults = [f"{other.url}/repos/team/encoder/issues/7/comments?per_page=100&page=1"]
        with pytest.raises(Refused, match="answers 302"):
            post(text, "plan", server.github(), "7")
        assert not other.asked


def test_a_long_comment_is_cut_and_closed():
    text = "### A\n\n<details><summary>x</summary>\n\n```\n" + "word\n" * 20_000 + "```\n\n</details>\n"
    short = cut(text, 65_536)
    assert len(short) <= 65_536
    assert short.count("<details>") == short.count("</details>")
    assert short.count("\n```") % 2 == 0
    assert "Cut here" in short
    assert cut("short", 100) == "short"


def test_it_runs_with_nothing_installed(server, text):
    """`-S -I`: no site-packages; the job that holds the token installs nothing."""
    code = f"import sys; sys.path.insert(0, {str(REPO / 'src')!r}); from mmenc.retrain.post import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    env = {"PATH": os.environ["PATH"], **server.github()}
    words = [sys.executable, "-I", "-S", "-c", code, "plan", str(text), "7"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "comment 100 posted", "")
    done = subprocess.run(words[:-1], env=env | {"GITHUB_TOKEN": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "mmenc: GITHUB_TOKEN is not set; a CI service sets it, see docs/retraining.md\n"
