"""HTML of a formula with its counterpart and its proof, and of a figure.

Everything is readable without scripts: the code stands in a <details>, the runnable version is a
link. Copy buttons start hidden; the script that makes them work shows them.
"""

import posixpath
from html import escape

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from formulary_site.figures.drawing import Drawing
from formulary_site.proof.evidence import Verdict
from formulary_site.registry import Figure, Formula
from formulary_site.site import Site


def relative(target: str, start: str, folders: bool = True) -> str:
    """The path from one page to another address, both below the same root.

    Args:
        target: Where to.
        start: The page's address (`rope/scaling/`), or its file when `folders` is false.
        folders: Whether a page's address is a folder.
    """
    base = start if folders else posixpath.dirname(start)
    path = posixpath.relpath("/" + target.partition("#")[0], "/" + base)
    path += "/" if target.partition("#")[0].endswith("/") else ""
    return path + ("#" + target.partition("#")[2] if "#" in target else "")


def formula(site: Site, formula: Formula, typeset: str, url: str) -> str:
    """The whole card of one formula, for a page at `url`."""
    definition = site.definitions[formula.object]
    verdict = site.verdicts[formula.id]
    file = site.project.relative(definition.file)
    code = highlight(definition.source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip("\n")
    source = site.source_link(file, definition.line, definition.end_line)
    place = f"formulary.{formula.object}"
    where = (
        f'<a href="{escape(source)}"><code>{place}</code></a>'
        if source
        else f"<code>{place}</code>"
    )
    snippet = relative(f"snippets/{formula.id}.py", url)
    number = f"({formula.number})"
    return (
        f'<div class="fm" id="{formula.id}" data-latex="{escape(formula.latex)}">'
        '<div class="fm-row">'
        f'<div class="fm-display" data-search-exclude role="group" tabindex="0"'
        f' aria-label="式 {number}">{typeset}</div>'
        f'<a class="fm-number" href="#{formula.id}" title="这个公式的永久链接">{number}</a>'
        "</div>"
        f'<details class="fm-card" data-search-exclude><summary>'
        f'<span class="fm-name"><code>{escape(definition.name)}</code></span>'
        f'<span class="fm-state fm-{verdict.state}">{_state(verdict)}</span>'
        "</summary>"
        f'<div class="fm-actions">{_buttons(snippet)}</div>'
        f'<div class="highlight"><pre class="no-copy" tabindex="0"><code>{code}</code></pre></div>'
        f'<p class="fm-source">{where}　<a href="{snippet}" download>下载可运行版本</a></p>'
        f"{_evidence(site, verdict)}"
        "</details></div>"
    )


def figure(figure: Figure, drawing: Drawing, caption: str, url: str) -> str:
    """A figure in both schemes; Material shows the one that fits the reader's choice."""
    label = f"图 {figure.number}"
    images = "".join(
        f'<img src="{relative(f"assets/figures/{file.name}", url)}#only-{theme}"'
        f' alt="{escape(figure.alt)}" width="{drawing.width}" height="{drawing.height}"'
        ' loading="lazy">'
        for theme, file in (("light", drawing.light), ("dark", drawing.dark))
    )
    return (
        f'<figure class="fm-figure" id="{figure.id}">'
        f'<div class="fm-images" tabindex="0" role="group" aria-label="{label}">{images}</div>'
        f'<figcaption><a href="#{figure.id}">{label}</a>　{caption}</figcaption></figure>'
    )


def _buttons(snippet: str) -> str:
    return (
        '<button type="button" class="fm-copy" data-copy="code" hidden>复制代码</button>'
        '<button type="button" class="fm-copy" data-copy="latex" hidden>复制 LaTeX</button>'
        f'<button type="button" class="fm-copy" data-copy="runnable" data-url="{snippet}" hidden>'
        "复制可运行版本</button>"
    )


def _state(verdict: Verdict) -> str:
    if verdict.state != "proven":
        return {"stale": "未验证：代码改过", "missing": "未验证", "failed": "测试失败"}[
            verdict.state
        ]
    return f"已验证 · {len(verdict.tests)} 项测试 · {_error(verdict)}"


def _error(verdict: Verdict) -> str:
    if verdict.max_error == 0:
        return "与参照逐位相同"
    exponent = f"{verdict.max_error:.0e}".partition("e")[2]
    return f"最大误差 ≤ 10<sup>{int(exponent)}</sup>".replace("-", "−")


def _evidence(site: Site, verdict: Verdict) -> str:
    kinds = {"oracle": "对照", "property": "性质", "negative": "反例"}
    items = []
    for test in verdict.tests:
        link = site.source_link(test.file, test.line, test.end_line)
        name = f"<code>{escape(test.claim)}</code>"
        name = f'<a href="{escape(link)}">{name}</a>' if link else name
        kind = f'<span class="fm-kind">{kinds[test.kind]}</span>'
        items.append(f"<li>{kind}{escape(test.docstring)}{name}</li>")
    return f'<ul class="fm-evidence">{"".join(items)}</ul>'
