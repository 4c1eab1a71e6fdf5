"""HTML of a formula with its counterpart and its proof, of a listing, and of a figure.

Everything is readable without scripts: the code stands in a <details>, the runnable version is a
link. Copy buttons start hidden; the script that makes them work shows them.
"""

import posixpath
from difflib import unified_diff
from html import escape
from xml.sax.saxutils import quoteattr

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import DiffLexer, PythonLexer

from formulary_site.figures.drawing import Drawing
from formulary_site.proof.evidence import Verdict
from formulary_site.registry import Figure, Formula, Item, Listing
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
    number = f"({formula.number})"
    return (
        f'<div class="fm" id="{formula.id}" data-latex="{escape(formula.latex)}">'
        '<div class="fm-row">'
        f'<div class="fm-display" data-search-exclude role="group" tabindex="0"'
        f' aria-label="式 {number}">{typeset}</div>'
        f'<a class="fm-number" href="#{formula.id}" title="这个公式的永久链接">{number}</a>'
        "</div>"
        f"{_counterpart(site, formula, url, ('code', 'latex', 'runnable'))}</div>"
    )


def listing(site: Site, listing: Listing, caption: str, url: str) -> str:
    """Code that is no formula: an object with its proof, or a whole script."""
    if listing.object in site.scripts:
        code = _script(site, listing, url)
    else:
        code = _counterpart(site, listing, url, ("code", "runnable"), unfolded=True)
    label = f"代码 {listing.number}"
    return (
        f'<figure class="fm-listing" id="{listing.id}">'
        f'<figcaption><a href="#{listing.id}">{label}</a>　{caption}</figcaption>{code}</figure>'
    )


def _counterpart(
    site: Site, item: Item, url: str, copies: tuple[str, ...], unfolded: bool = False
) -> str:
    """The source of an item's object, its runnable version and its proof."""
    definition = site.definitions[item.object]
    verdict = site.verdicts[item.id]
    file = site.project.relative(definition.file)
    source = site.source_link(file, definition.line, definition.end_line)
    snippet = relative(f"snippets/{item.id}.py", url)
    return _card(
        name=definition.name,
        state=f'<span class="fm-state fm-{verdict.state}">{_state(verdict)}</span>',
        buttons=_buttons(snippet, copies),
        code=_highlighted(definition.source, PythonLexer()),
        where=_where(f"formulary.{item.object}", source),
        download=f'<a href="{snippet}" download>下载可运行版本</a>',
        evidence=_evidence(site, verdict),
        unfolded=unfolded,
    )


def _script(site: Site, listing: Listing, url: str) -> str:
    """A whole script; where it is compared with another, what differs, and the whole folded."""
    file = site.scripts[listing.object]
    text = file.read_text("utf-8")
    difference = ""
    if listing.against and (other := site.definitions.module_file(listing.against)):
        before = other.read_text("utf-8")
        lines = unified_diff(
            before.splitlines(), text.splitlines(), other.name, file.name, lineterm="", n=2
        )
        difference = _highlighted("\n".join(lines), DiffLexer())
    snippet = relative(f"snippets/{listing.id}.py", url)
    return difference + _card(
        name=file.name,
        state='<span class="fm-state">完整脚本</span>',
        buttons=_buttons(snippet, ("code",)),
        code=_highlighted(text, PythonLexer()),
        where=_where(f"formulary.{listing.object}", site.source_link(site.project.relative(file))),
        download=f'<a href="{snippet}" download="{file.name}">下载 {file.name}</a>',
        evidence="",
        unfolded=not difference,
    )


def _card(
    *,
    name: str,
    state: str,
    buttons: str,
    code: str,
    where: str,
    download: str,
    evidence: str,
    unfolded: bool,
) -> str:
    return (
        f'<details class="fm-card" data-search-exclude{" open" if unfolded else ""}><summary>'
        f'<span class="fm-name"><code>{escape(name)}</code></span>{state}</summary>'
        f'<div class="fm-actions">{buttons}</div>{code}'
        f'<p class="fm-source">{where}　{download}</p>{evidence}</details>'
    )


def _highlighted(text: str, lexer: Lexer) -> str:
    code = highlight(text, lexer, HtmlFormatter(nowrap=True)).rstrip("\n")
    return (
        f'<div class="highlight"><pre class="no-copy" tabindex="0"><code>{code}</code></pre></div>'
    )


def _where(place: str, source: str) -> str:
    """A module path, linked to its source in the repository, if that is known."""
    code = f"<code>{place}</code>"
    return f'<a href="{escape(source)}">{code}</a>' if source else code


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


def _buttons(snippet: str, copies: tuple[str, ...]) -> str:
    labels = {"code": "复制代码", "latex": "复制 LaTeX", "runnable": "复制可运行版本"}
    return "".join(
        f'<button type="button" class="fm-copy" data-copy="{what}"'
        f"{f' data-url={quoteattr(snippet)}' if what == 'runnable' else ''} hidden>"
        f"{labels[what]}</button>"
        for what in copies
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
