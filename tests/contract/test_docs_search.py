"""The site's search answers from the file system, in a real browser without a network; skipped where no Chromium is."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.pipeline import REPO

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
TYPED = "(document.activeElement.shadowRoot || document).activeElement.value"
FOUND = "[...document.querySelectorAll('*')].map(e => e.shadowRoot?.textContent || '').join(' ')"


async def ask(port: int, word: str) -> tuple[str, str]:
    """Open the search, type a word; what the field and the list of results then show."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:

            async def call(method: str, **params: Any) -> Any:
                await socket.send_json({"id": 1, "method": method, "params": params})
                return next(m for m in [await socket.receive_json()] if m["id"] == 1)["result"]

            async def value(expression: str) -> str:
                return str((await call("Runtime.evaluate", expression=expression))["result"].get("value", ""))

            async def until(expression: str, part: str) -> str:
                for _ in range(100):
                    if part in (shown := await value(expression)):
                        return shown
                    await asyncio.sleep(0.2)
                raise AssertionError(f"{expression}: no {part!r} in {shown[:2000]!r}")

            await until("document.readyState", "complete")
            await asyncio.sleep(1)
            await value("document.querySelector('label[for=__search]').click()")
            await asyncio.sleep(1)
            for letter in word:
                await call("Input.dispatchKeyEvent", type="char", text=letter)
            results = await until(FOUND, "result")
            return await value(TYPED), results


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_search_works_from_the_file_system(tmp_path: Path):
    shutil.copytree(REPO / "docs", tmp_path / "docs")
    shutil.copy(REPO / "mkdocs.yml", tmp_path / "mkdocs.yml")
    subprocess.run([sys.executable, "-m", "zensical", "build"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    profile = tmp_path / "profile"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    browser = subprocess.Popen([CHROMIUM, *options, (tmp_path / "site/recipe.html").as_uri()], stderr=subprocess.DEVNULL)
    try:
        port, ends = profile / "DevToolsActivePort", time.monotonic() + 60
        while not (port.is_file() and "\n" in port.read_text()) and time.monotonic() < ends:
            time.sleep(0.1)
        typed, results = asyncio.run(asyncio.wait_for(ask(int(port.read_text().split()[0]), "fertility"), 90))
    finally:
        browser.terminate()
        browser.wait(30)
    assert typed == "fertility"
    assert "The tokenizer" in results
