"""The documentation as a site: made pages are true, it builds without a warning, and a browser finds its way in it."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: .ci/run installs it")


def test_pages_that_are_made_from_the_program_say_what_it_does_now() -> None:
    # a process of its own: help texts depend on the width of the terminal that argparse has seen
    code = "import runpy; m = runpy.run_path('docs/make_reference.py'); import json; print(json.dumps({k: f() for k, f in m['PAGES'].items()}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for name, text in json.loads(done.stdout).items():
        assert (ROOT / "docs" / name).read_text() == text, f"docs/{name}: run `make docs`"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w/]+\.md)", (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs mkdocs-material: pip install 'dinov3[docs]'")
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/wait":  # a browser's own clock stands still meanwhile, its workers go on
                time.sleep(0.5)
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def dump(url: str, width: int = 1280) -> tuple[str, str]:
    """The page as a browser has it after its scripts, and what its console said."""
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=8000", url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(said)


@pytest.mark.nightly
def test_every_link_inside_the_site_leads_somewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            if target.startswith(("http", "data:", "mailto:", "#")):
                continue
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve()
            other = other / "index.html" if other.is_dir() else other
            assert other.is_file(), f"{page.name}: {target}"
            assert not anchor or f'id="{anchor}"' in other.read_text(), f"{page.name}: {target}"


@pytest.mark.nightly
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*src="(http[^"]+)"|<link[^>]*stylesheet[^>]*href="(http[^"]+)"',
            page.read_text(),
        )
        assert loaded == [], page.name


@browser
@pytest.mark.nightly
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_page_without_an_error_and_as_wide_as_its_screen(
    address: str, site: Path, width: int
) -> None:
    probe = "<script>addEventListener('load',()=>document.title=document.documentElement.scrollWidth)</script></body>"
    for name in ("index.html", "howto.html", "choices.html", "keys.html", "explanation.html"):
        page = site / name
        kept = page.read_text()
        page.write_text(kept.replace("</body>", probe))
        try:
            dom, said = dump(f"{address}/{name}", width)
        finally:
            page.write_text(kept)
        assert "error" not in said.lower(), f"{name}: {said}"
        found = re.search(r"<title>(\d+)</title>", dom)
        assert found is not None, name
        assert int(found[1]) <= max(width, 500), f"{name} is {found[1]} px wide: Chromium's least window has 500"


FOUND = """<script>(async () => {
  for (let i = 0; i < 120; i++) {
    await fetch("/wait");
    const links = [...document.querySelectorAll(".md-search-result__link")].map((a) => a.getAttribute("href"));
    if (links.length) { document.title = "found " + links.join(" "); return; }
  }
})()</script></body>"""


@browser
@pytest.mark.nightly
def test_the_search_box_finds_a_page(address: str, site: Path) -> None:
    (site / "asked.html").write_text((site / "index.html").read_text().replace("</body>", FOUND))
    dom, said = dump(f"{address}/asked.html?q=accumulation")
    assert "error" not in said.lower(), said
    found = re.search(r"<title>found (.*?)</title>", dom)
    assert found is not None
    assert "training.html?h=accumulation#gradient-accumulation" in found[1]


def test_the_maker_of_pages_names_every_one_of_them() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["PAGES"]
    assert set(made) == {"keys.md", "commands.md", "choices.md", "glossary.md"}
