"""Makes a page of the site out of the HTML that mkdocs-jupyter renders for a notebook."""

import posixpath
import re
from base64 import b64decode
from html import escape
from typing import Any
from urllib.parse import quote

import nbformat
from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from markdown.extensions.toc import slugify_unicode, unique

from formulary_site.card import relative
from formulary_site.mathjax.renderer import TeXError
from formulary_site.problems import Problem, SourceError
from formulary_site.site import Site

# As in articles: no space inside the dollars, and a digit after them means money
_INLINE = re.compile(r"(?<![\\$])\$(?![\s$])((?:\\.|[^$\\])+?)(?<!\s)\$(?!\d)")


def notebook_page(site: Site, html: str, path: str, url: str) -> tuple[str, list[dict[str, Any]]]:
    """Rebuild the page from the cells alone, with typeset mathematics.

    Args:
        site: The site being built.
        html: What mkdocs-jupyter rendered.
        path: The notebook's path below `docs`.
        url: The page's address below the site's root.

    Returns:
        The page's HTML, and its table of contents as Python-Markdown's `toc_tokens`.

    Raises:
        SourceError: A link leads nowhere, or MathJax refuses a formula.
    """
    notebook = nbformat.read(site.project.docs / path, as_version=4)
    alts = {f"cell-id={cell.id}": cell.metadata.get("alt", "") for cell in notebook.cells}
    rendered = BeautifulSoup(html, "html.parser")
    page = BeautifulSoup("", "html.parser")
    problems: list[Problem] = []
    for cell in rendered.select(".jp-Cell[id]"):
        if "jp-MarkdownCell" in (cell.get("class") or []):
            for markdown in cell.select(".jp-RenderedMarkdown"):
                page.extend([child.extract() for child in list(markdown.contents)])
            continue
        page.append(_input(page, cell))
        for output in cell.select(".jp-OutputArea-output"):
            page.append(_output(page, output, alts.get(str(cell["id"]), "")))
    tokens = _headings(page)
    file = site.project.relative(site.project.docs / path)
    _links(site, page, path, url, file, problems)
    _mathematics(site, page, file, problems)
    if problems:
        raise SourceError(problems)
    title = page.find("h1")
    actions = BeautifulSoup(_actions(site, path), "html.parser")
    if title:
        title.insert_after(actions)
    else:
        page.insert(0, actions)
    return str(page), tokens


def _input(page: BeautifulSoup, cell: Tag) -> Tag:
    block = page.new_tag("div", attrs={"class": "highlight"})
    pre, code = page.new_tag("pre"), page.new_tag("code")
    source = cell.select_one(".highlight-ipynb pre")
    code.extend([child.extract() for child in list(source.contents)] if source else [])
    pre.append(code)
    block.append(pre)
    return block


def _output(page: BeautifulSoup, output: Tag, alt: str) -> Tag:
    block = page.new_tag(
        "div", attrs={"class": "nb-output", "tabindex": "0", "role": "group", "aria-label": "输出"}
    )
    block.extend([child.extract() for child in list(output.contents)])
    for image in block.find_all("img"):
        image["alt"] = alt
        image["src"] = _compressible(str(image["src"]))
    for image in block.find_all("svg"):
        image["role"], image["aria-label"] = "img", alt
    for element in block.find_all(["style", "script"]):
        element.decompose()
    return block


def _compressible(address: str) -> str:
    """A drawing as text: in base64, which nbconvert writes, gzip finds nothing that repeats."""
    head, found, data = address.partition("data:image/svg+xml;base64,")
    if head or not found:
        return address
    return "data:image/svg+xml," + quote(b64decode(data), safe=" /:;,=()+'!*-._~")


def _headings(page: BeautifulSoup) -> list[dict[str, Any]]:
    """Give headings the ids that articles' headings get; return their nested tokens."""
    used: set[str] = set()
    roots: list[dict[str, Any]] = []
    stack: list[dict[str, Any]] = []
    for heading in page.find_all(re.compile("^h[1-6]$")):
        for anchor in heading.select(".anchor-link"):
            anchor.decompose()
        name = heading.get_text().strip()
        heading["id"] = unique(slugify_unicode(name, "-"), used)
        link = page.new_tag(
            "a",
            attrs={"class": "headerlink", "href": f"#{heading['id']}", "title": "本节的永久链接"},
        )
        link.string = "¶"
        heading.append(link)
        token: dict[str, Any] = {
            "level": int(heading.name[1]),
            "id": heading["id"],
            "name": name,
            "children": [],
        }
        while stack and stack[-1]["level"] >= token["level"]:
            stack.pop()
        (stack[-1]["children"] if stack else roots).append(token)
        stack.append(token)
    return roots


def _links(
    site: Site, page: BeautifulSoup, path: str, url: str, file: str, problems: list[Problem]
) -> None:
    """Links between source files become links between pages."""
    for link in page.find_all("a", href=True):
        target, _, anchor = str(link["href"]).partition("#")
        if not target or ":" in target.split("/")[0]:
            continue
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if other := site.registry.by_path.get(goal):
            link["href"] = relative(other.url, url) + (f"#{anchor}" if anchor else "")
        elif target.endswith(".md"):
            mend = "link to a source file below docs/"
            message = f"{target} leads to no page"
            problems.append(Problem(file, 1, "broken-link", message, mend))


def _mathematics(site: Site, page: BeautifulSoup, file: str, problems: list[Problem]) -> None:
    for text in list(page.find_all(string=_INLINE)):
        if text.find_parent(["pre", "code", "script", "style"]):
            continue
        parts: list[str] = []
        end = 0
        for match in _INLINE.finditer(text):
            try:
                typeset = site.mathjax.render(match[1], display=False)
            except TeXError as error:
                message = f"MathJax refuses {match[1]!r}: {error}"
                problems.append(Problem(file, 1, "tex-error", message, "correct the TeX"))
                typeset = ""
            parts += [
                escape(text[end : match.start()]),
                f'<span class="fm-inline" data-search-exclude>{typeset}</span>',
            ]
            end = match.end()
        parts.append(escape(text[end:]))
        assert isinstance(text, NavigableString)
        text.replace_with(BeautifulSoup("".join(parts), "html.parser"))


def _actions(site: Site, path: str) -> str:
    """Links to the notebook itself: download, the repository, Colab."""
    name = posixpath.basename(path)
    links = [f'<a href="{name}" download>下载 notebook</a>']
    if source := site.source_link(f"docs/{path}", 0).partition("#")[0]:
        links.append(f'<a href="{escape(source)}">查看源文件</a>')
        if source.startswith("https://github.com/"):
            colab = source.replace("https://github.com", "https://colab.research.google.com/github")
            links.append(f'<a href="{escape(colab)}">在 Colab 打开</a>')
    return f'<p class="nb-actions">{"".join(links)}</p>'
