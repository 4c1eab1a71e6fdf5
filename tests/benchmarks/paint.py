"""Weight and paint of the article, against the same page with MathJax in the reader's browser.

The second page is the same build with MathJax replaced by its input, plus the script, served from
the same machine: what differs is where the mathematics is typeset.
"""

import functools
import gzip
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from timing import table

from formulary_site.mathjax.renderer import SOURCE
from formulary_site.node import install
from formulary_site.project import Project

ROOT = Path(__file__).parents[2]
PAGE = "rope/"
ROUNDS = 5
CLIENT_SIDE = r"""
from html import escape
from formulary_site.mathjax.renderer import MathJax
def render_many(self, items):
    return [escape(rf"\[{tex}\]" if display else rf"\({tex}\)") for tex, display in items]
def write_assets(self, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "math.css").write_text("")
MathJax.render_many, MathJax.write_assets = render_many, write_assets
from mkdocs.__main__ import cli
cli()
"""
OBSERVE = """
window.measured = { blocked: 0, shift: 0 };
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) measured.blocked += task.duration - 50;
}).observe({ type: "longtask", buffered: true });
new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) measured.shift += shift.value;
}).observe({ type: "layout-shift", buffered: true });
"""
# The last paint that changes the page: fonts are there, MathJax (if it runs here) has finished
FINAL = """async () => {
  if (document.querySelector("script[src*=tex-chtml]")) {
    while (!window.MathJax?.startup?.promise) await new Promise((go) => setTimeout(go, 20));
    await MathJax.startup.promise;
  }
  await document.fonts.ready;
  await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  return { final: performance.now(), first: paint ? paint.startTime : 0, ...measured };
}"""


def main() -> None:
    """Build both, load each in turn on a CPU slowed down four times."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        build = ["build", "--strict", "--quiet", "--site-dir"]
        subprocess.run([sys.executable, "-m", "mkdocs", *build, str(ours)], cwd=ROOT, check=True)
        subprocess.run(
            [sys.executable, "-c", CLIENT_SIDE, *build, str(theirs)], cwd=ROOT, check=True
        )
        packages = install(SOURCE, Project(ROOT).cache) / "node_modules"
        shutil.copytree(packages / "mathjax", theirs / "mathjax")
        shutil.copytree(packages / "@mathjax", theirs / "@mathjax")
        page = theirs / PAGE / "index.html"
        setup = (
            "<script>MathJax = { loader: { paths: { 'mathjax-newcm': "
            "'../@mathjax/mathjax-newcm-font' } } };</script>"
            '<script src="../mathjax/tex-chtml.js" defer></script></head>'
        )
        page.write_text(page.read_text("utf-8").replace("</head>", setup, 1), "utf-8")
        names = {"typeset at build time": ours, "MathJax in the client": theirs}
        with sync_playwright() as playwright:
            path = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for _ in range(ROUNDS):
                for name, root in names.items():
                    runs[name].append(_load(browser, root))
            browser.close()
        middle = {
            name: {key: median(run[key] for run in values) for key in values[0]}
            for name, values in runs.items()
        }
        base = middle["MathJax in the client"]
        rows: list[tuple[Any, ...]] = []
        for name, root in names.items():
            html = (root / PAGE / "index.html").read_bytes()
            m = middle[name]
            rows.append(
                (
                    name,
                    f"{len(html) / 1e3:.0f} ({len(gzip.compress(html)) / 1e3:.0f})",
                    f"{m['sent'] / 1e3:.0f}",
                    f"{m['first']:.0f}",
                    f"{m['final']:.0f}",
                    f"{m['final'] / base['final']:.2f}",
                    f"{m['blocked']:.0f}",
                    f"{m['shift']:.3f}",
                )
            )
        table(
            f"/{PAGE} at 4x CPU throttle, median of {ROUNDS} turns",
            (
                "what",
                "HTML kB (gzip)",
                "all kB",
                "first paint ms",
                "final ms",
                "ratio",
                "blocked ms",
                "layout shift",
            ),
            rows,
        )


def _load(browser: Browser, root: Path) -> dict[str, float]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.add_init_script(OBSERVE)
        sent = 0

        def add(response: Any) -> None:
            nonlocal sent
            sent += int(response.headers.get("content-length", 0))

        page.on("response", add)
        session = context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.goto(f"http://127.0.0.1:{server.server_port}/{PAGE}", wait_until="load")
        result = dict(page.evaluate(FINAL))
        result["sent"] = sent
        context.close()
        server.shutdown()
        thread.join()
    return result


if __name__ == "__main__":
    main()
