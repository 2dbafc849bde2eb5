"""The console's page and files: what they may load, and that they load nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from running_server import RunningServer

from llm_serving_engine.server.console.pages import CONTENT_SECURITY_POLICY, STATIC

FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
CONTENT = {path: path.read_bytes() for path in FILES}
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
FILE_LINES_MAX = 400


def name(path: Path) -> str:
    return path.relative_to(STATIC).as_posix()


async def get(server: RunningServer, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        url = f"http://127.0.0.1:{server.app.http_port}{path}"
        return await client.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def test_the_page(scripted: RunningServer) -> None:
    page = await get(scripted, "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == (STATIC / "index.html").read_text()


@pytest.mark.parametrize("path", ["/", "/console/main.js", "/console/base.css"])
async def test_the_headers_let_nothing_else_in(scripted: RunningServer, path: str) -> None:
    headers = (await get(scripted, path)).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_policy_knows_one_source() -> None:
    rules = [rule.split() for rule in CONTENT_SECURITY_POLICY.split("; ")]
    assert rules[0] == ["default-src", "'none'"]
    assert {source for _, *sources in rules for source in sources} == {"'self'", "'none'"}


@pytest.mark.parametrize("path", FILES, ids=name)
async def test_each_file_is_served_by_its_type(scripted: RunningServer, path: Path) -> None:
    answer = await get(scripted, f"/console/{name(path)}")
    assert answer.status_code == 200
    assert answer.content == CONTENT[path]
    assert answer.headers["content-type"].partition(";")[0] == TYPES[path.suffix]


async def test_a_file_that_has_not_changed_is_not_sent_again(scripted: RunningServer) -> None:
    first = await get(scripted, "/console/main.js")
    again = await get(scripted, "/console/main.js", if_none_match=first.headers["etag"])
    assert again.status_code == 304
    assert again.content == b""


@pytest.mark.parametrize(
    "path", ["/console/no.js", "/console/../pages.py", "/console/%2e%2e/pages.py"]
)
async def test_nothing_else_is_served(scripted: RunningServer, path: str) -> None:
    assert (await get(scripted, path)).status_code == 404


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_names_an_address_outside(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}", text) == []


def test_the_page_has_nothing_inline() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
    assert all("src=" in script for script in re.findall(r"<script[^>]*>", page))


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_make_no_markup_and_no_code(path: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert re.findall(forbidden, path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_what_a_script_imports_is_there(path: Path) -> None:
    imports = re.findall(r'^(?:import|export) .*?from "([^"]+)"', path.read_text(), re.MULTILINE)
    assert [one for one in imports if not (path.parent / one).is_file()] == []


def test_every_file_is_used() -> None:
    page = (STATIC / "index.html").read_text()
    used = {(STATIC / "index.html").resolve()}
    used |= {(STATIC / found).resolve() for found in re.findall(r'"/console/([^"]+)"', page)}
    for path in SCRIPTS:
        imports = re.findall(r'from "([^"]+)"', path.read_text())
        used |= {(path.parent / one).resolve() for one in imports}
    assert [name(path) for path in FILES if path.resolve() not in used] == []


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX
