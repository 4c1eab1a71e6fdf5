"""Python-Markdown extension: fences for formulas, figures and code, mathematics, references.

It works under any builder that runs Python-Markdown. What a fence must look like is checked by
`formulary_site.check`, which reports file and line; here a broken fence only has to raise, so
that it can never end up as text on a page.
"""

import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor
from pymdownx.superfences import SuperFencesException

from formulary_site import card
from formulary_site.mathjax.renderer import TeXError
from formulary_site.registry import EXCERPT_END, FENCES, OPTIONAL, Figure, Formula, Page
from formulary_site.site import Site

# Display math has the fence alone: `$$` stays text, which the check reports
_DOLLARS: dict[str, dict[str, Any]] = {
    "pymdownx.arithmatex": {"generic": True, "inline_syntax": ["dollar"], "block_syntax": []}
}
_ORDINAL = re.compile("（[一二三四五六七八九十]+）")
_INLINE = re.compile(r"\\\((.*)\\\)", re.DOTALL)


@dataclass
class Rendering:
    """What one rendering of a page is told, and what it reports back.

    Attributes:
        page: Path below `docs` of the page whose text is rendered.
        url: Address, below the site's root, of the page that will show it.
        excerpt: Whether only what stands before `<!-- more -->` will be shown.
        ids: Every id in the result.
        links: Targets of links, as written.
        images: Source and alternative text of images, as written.
        texts: Mathematics that survived as plain text.
        errors: TeX that MathJax refused, with its message.
    """

    page: str
    url: str
    excerpt: bool = False
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)


_rendering: ContextVar[Rendering | None] = ContextVar("rendering", default=None)


@contextmanager
def rendering(page: str, url: str) -> Iterator[Rendering]:
    """A context in which Markdown converts one page; yields what that brings to light."""
    facts = Rendering(page, url)
    token = _rendering.set(facts)
    try:
        yield facts
    finally:
        _rendering.reset(token)


def begin_rendering(page: str, url: str, excerpt: bool = False) -> Rendering:
    """The same for a builder whose hooks can't span a `with` block."""
    facts = Rendering(page, url, excerpt)
    _rendering.set(facts)
    return facts


def _facts(md: Markdown) -> Rendering:
    """What the builder said about the page: ours, or Zensical's preprocessor."""
    if facts := _rendering.get():
        return facts
    if "rendering_context" in md.preprocessors:
        page = md.preprocessors["rendering_context"].page  # type: ignore[attr-defined]
        return Rendering(page.path, page.url)
    return Rendering("", "")


class FormularyExtension(Extension):
    """Registers the fences, the inline mathematics and the tree processors."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 (name given by Python-Markdown)
        fences = [
            {"name": name, "class": name, "validator": _validate, "format": _format}
            for name in FENCES
        ]
        md.registerExtensions(
            ["pymdownx.superfences", "pymdownx.arithmatex"],
            {
                "pymdownx.superfences": {"custom_fences": fences},
                **_DOLLARS,
            },
        )
        md.preprocessors.register(_Excerpt(md), "formulary-excerpt", 100)  # before all others
        # After inline parsing (20) and the table of contents (5), before MkDocs resolves links (0)
        md.treeprocessors.register(_InlineMath(md), "formulary-math", 4)
        md.treeprocessors.register(_CrossReferences(md), "formulary-references", 3)
        md.treeprocessors.register(_Facts(md), "formulary-facts", 2)


class _Excerpt(Preprocessor):
    """Spares the work on what an excerpt leaves out: the blog converts whole posts for each view.

    Something must remain after the mark, or the blog shows no link to go on reading.
    """

    def run(self, lines: list[str]) -> list[str]:
        if not _facts(self.md).excerpt or EXCERPT_END not in lines:
            return lines
        return [*lines[: lines.index(EXCERPT_END) + 1], "", "…"]


def _validate(
    language: str,
    inputs: dict[str, str],
    options: dict[str, Any],
    attrs: dict[str, Any],
    md: Markdown,
) -> bool:
    known = FENCES[language]
    options.update(inputs)
    if unknown := sorted((inputs.keys() | attrs.keys()) - known):
        raise SuperFencesException(f"{language} fence: unknown option {', '.join(unknown)}")
    if missing := sorted(known - OPTIONAL - inputs.keys()):
        raise SuperFencesException(f"{language} fence: missing option {', '.join(missing)}")
    return True


def _format(
    source: str,
    language: str,
    class_name: str,
    options: dict[str, str],
    md: Markdown,
    **_: Any,
) -> str:
    site = Site.current()
    facts = _facts(md)
    name = options["id"]
    if formula := language == "math" and site.registry.formulas.get(name):
        html = _formula(site, formula, facts)
    elif figure := language == "figure" and site.registry.figures.get(name):
        html = _figure(site, figure, facts)
    elif listing := language == "listing" and site.registry.listings.get(name):
        html = card.listing(site, listing, _caption(listing.caption), facts.url)
    else:
        raise SuperFencesException(f"{language} fence: '{name}' is not in the registry of docs/")
    if html:  # TeX that MathJax refused leaves nothing to link to
        facts.ids.append(name)
    return html


def _formula(site: Site, formula: Formula, facts: Rendering) -> str:
    try:
        typeset = site.mathjax.render(formula.latex, display=True)
    except TeXError as error:
        facts.errors.append((formula.latex, str(error)))
        return ""
    return card.formula(site, formula, typeset, facts.url)


def _figure(site: Site, figure: Figure, facts: Rendering) -> str:
    drawing = site.drawings.get(figure.object)
    if drawing is None or isinstance(drawing, Exception):
        raise SuperFencesException(f"figure fence: {figure.object} can't be drawn: {drawing}")
    return card.figure(figure, drawing, _caption(figure.caption), facts.url)


def _caption(text: str) -> str:
    """A caption is Markdown, too; its own parser has no fences and no headings."""
    caption = Markdown(extensions=[_CaptionExtension()]).convert(text)
    return caption.removeprefix("<p>").removesuffix("</p>")


class _CaptionExtension(Extension):
    """Inline mathematics and cross references for captions."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.registerExtensions(["pymdownx.arithmatex"], _DOLLARS)
        md.treeprocessors.register(_InlineMath(md), "formulary-math", 4)
        md.treeprocessors.register(_CrossReferences(md, urls=True), "formulary-references", 3)


class _InlineMath(Treeprocessor):
    """Replaces what arithmatex marked by what MathJax typeset."""

    def run(self, root: ElementTree.Element) -> None:
        facts = _facts(self.md)
        mathjax = Site.current().mathjax
        found = [
            (element, match[1])
            for element in root.iter("span")
            if element.get("class") == "arithmatex"
            and (match := _INLINE.fullmatch(element.text or ""))
        ]
        rendered = mathjax.render_many([(tex, False) for _, tex in found])
        for (element, tex), html in zip(found, rendered, strict=True):
            if isinstance(html, TeXError):
                facts.errors.append((tex, str(html)))
                continue
            element.set("class", "fm-inline")
            element.set("data-search-exclude", "")
            element.text = self.md.htmlStash.store(html)


class _CrossReferences(Treeprocessor):
    """`[](#id)` becomes 「式 (3)」, 「图 1」 or 「代码 2」, linked, also across pages."""

    def __init__(self, md: Markdown, urls: bool = False) -> None:
        super().__init__(md)
        self._urls = urls

    def run(self, root: ElementTree.Element) -> None:
        registry = Site.current().registry
        facts = _facts(self.md)
        for link in root.iter("a"):
            target = link.get("href", "")
            if not target.startswith("#") or len(link) or (link.text or "").strip():
                continue
            name = target[1:]
            if formula := registry.formulas.get(name):
                label, page, url = f"式 ({formula.number})", formula.page, formula.url
            elif drawn := registry.figures.get(name):
                label, page, url = f"图 {drawn.number}", drawn.page, drawn.url
            elif listed := registry.listings.get(name):
                label, page, url = f"代码 {listed.number}", listed.page, listed.url
            else:
                raise SuperFencesException(f"[](#{name}) refers to no formula, figure or listing")
            link.set("class", "fm-reference")
            if page == facts.page:
                link.text = label
                continue
            other = registry.by_path[page]
            link.text = f"{_page_label(other, facts.page)}{label}"
            link.set("title", other.title)
            if self._urls:
                link.set("href", card.relative(url, facts.url))
            else:
                # Builders resolve links between source files, and blog excerpts re-base them
                link.set("href", card.relative(page, facts.page, folders=False) + target)


def _page_label(page: Page, here: str) -> str:
    """How another page is called: by its ordinal within a series, else by its title."""
    ordinal = _ORDINAL.search(page.title)
    same_series = posixpath.dirname(page.path) == posixpath.dirname(here)
    return ordinal[0] if ordinal and same_series else f"《{page.title}》"


class _Facts(Treeprocessor):
    """Notes what the check wants to know of the finished tree."""

    def run(self, root: ElementTree.Element) -> None:
        facts = _facts(self.md)
        for element in root.iter():
            if name := element.get("id"):
                facts.ids.append(name)
            if element.tag == "a" and (target := element.get("href")):
                facts.links.append(target)
            if element.tag == "img":
                facts.images.append((element.get("src", ""), element.get("alt", "")))
            if element.tag not in ("code", "pre", "script"):
                for text in (element.text, element.tail):
                    if text and ("$$" in text or "\\[" in text or "\\begin{" in text):
                        facts.texts.append(text.strip())
