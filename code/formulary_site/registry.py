"""Every formula, figure and listing of the site, from one scan of `docs/`.

The scan reads Markdown line by line, so that each thing and each problem has a file and a line.
CLI, tests and builders share it; nothing here renders, imports torch or knows MkDocs.
"""

import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from formulary_site.problems import Problem, suggestion
from formulary_site.project import Project

FENCES = {
    "math": {"id", "code", "title"},
    "figure": {"id", "code", "alt"},
    "listing": {"id", "code", "against"},
}
OPTIONAL = {"title", "against"}
EXCERPT_END = "<!-- more -->"

_FENCE = re.compile(r"^(?P<indent>[\s>]*)(?P<ticks>`{3,}|~{3,})\s*(?P<header>[^`]*)$")
_OPTION = re.compile(
    r"""\s*(?P<key>[A-Za-z_][\w-]*)\s*=\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)"""
)
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_REFERENCE = re.compile(r"\[\]\(#(?P<id>[^)\s]*)\)")
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->")
_OWN_NUMBER = re.compile(r"\\(tag|label|eqref|ref)\b")
_STRAY_MATH = re.compile(
    r"""\$\$ | \\\[ | \\begin\{ | \\displaystyle
      | <math\b | <mjx- | class=["']arithmatex | type=["']math/tex""",
    re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """What formulas, figures and listings share.

    Attributes:
        id: Kebab-case name, unique on the site.
        page: Path of the page below `docs`.
        url: Address of the item below the site's root.
        number: Number among its kind on its page, from 1.
        object: Definition below `formulary` that computes, draws or is it; a listing's may be
            a module, a whole script.
        file: Path below the project's root.
        line: Line of the fence.
    """

    id: str
    page: str
    url: str
    number: int
    object: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Formula(Item):
    """One `math` fence: its title, or '', and its TeX as written."""

    title: str
    latex: str


@dataclass(frozen=True, kw_only=True)
class Figure(Item):
    """One `figure` fence: its alternative text and its caption in Markdown."""

    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Listing(Item):
    """One `listing` fence: code that is no formula.

    Attributes:
        against: Module that the listed one is shown as a difference from, or ''.
        caption: In Markdown.
    """

    against: str
    caption: str


@dataclass
class Page:
    """One Markdown page.

    Attributes:
        path: Path below `docs`.
        url: Address below the site's root, '' for the home page.
        title: From the front matter, else the first heading.
        meta: Front matter.
        text: The whole file.
    """

    path: str
    url: str
    title: str
    meta: dict[str, Any]
    text: str
    formulas: list[Formula] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    references: list[tuple[str, int]] = field(default_factory=list)

    @property
    def body(self) -> str:
        """The text without its front matter."""
        return _FRONT_MATTER.sub("", self.text)


@dataclass(frozen=True)
class Registry:
    """All pages with what their fences say, and what is wrong with their source."""

    pages: tuple[Page, ...]
    problems: tuple[Problem, ...]

    @cached_property
    def formulas(self) -> dict[str, Formula]:
        return {formula.id: formula for page in self.pages for formula in page.formulas}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        return {figure.id: figure for page in self.pages for figure in page.figures}

    @cached_property
    def listings(self) -> dict[str, Listing]:
        return {listing.id: listing for page in self.pages for listing in page.listings}

    @cached_property
    def proven(self) -> dict[str, Formula | Listing]:
        """All whose object must be proven by tests; a listed script has tests of its own."""
        return {**self.formulas, **self.listings}

    @cached_property
    def by_path(self) -> dict[str, Page]:
        return {page.path: page for page in self.pages}


def scan(project: Project) -> Registry:
    """Read every page below `docs`, in the order of their paths."""
    problems: list[Problem] = []
    pages = [
        _scan_page(project, path, problems)
        for path in sorted(project.docs.rglob("*.md"))
        if not any(part.startswith(".") for part in path.relative_to(project.docs).parts)
    ]
    first: dict[str, Item] = {}
    for page in pages:
        for item in (*page.formulas, *page.figures, *page.listings):
            if other := first.get(item.id):
                problems.append(
                    Problem(
                        item.file,
                        item.line,
                        "duplicate-id",
                        f"the id '{item.id}' is taken by {other.file}:{other.line}",
                        "give this one another id",
                    )
                )
            else:
                first[item.id] = item
    for page in pages:
        for name, line in page.references:
            if name not in first:
                problems.append(
                    Problem(
                        _file(project, page),
                        line,
                        "unknown-reference",
                        f"[](#{name}) refers to no formula, figure or listing",
                        f"use an id that exists{suggestion(name, first, '#')}",
                    )
                )
    return Registry(tuple(pages), tuple(problems))


def _scan_page(project: Project, path: Path, problems: list[Problem]) -> Page:
    text = path.read_text("utf-8")
    name = path.relative_to(project.docs).as_posix()
    file = project.relative(path)
    meta: dict[str, Any] = {}
    start = 1
    if match := _FRONT_MATTER.match(text):
        start += match[0].count("\n")
        try:
            meta = yaml.safe_load(match[1]) or {}
        except yaml.YAMLError as error:
            problems.append(
                Problem(file, 1, "bad-front-matter", str(error), "write valid YAML between the ---")
            )
    lines = text.splitlines()
    page = Page(name, _url(name, meta), str(meta.get("title") or ""), meta, text)
    previous = ""
    excerpt = name.startswith("posts/") and EXCERPT_END in text
    for number, line, fence in _blocks(lines, start, file, problems):
        if fence is None:
            if not page.title and line.startswith("# "):
                page.title = line[2:].strip()
            excerpt = excerpt and EXCERPT_END not in line
            _scan_line(page, file, number, line, problems)
            if excerpt and _REFERENCE.search(line):
                problems.append(_in_excerpt(file, number, "a cross reference"))
        elif (kind := (fence.header.split() or [""])[0].strip("{.}")) in FENCES:
            _scan_fence(page, file, number, kind, fence, previous, problems)
            if excerpt:
                problems.append(_in_excerpt(file, number, f"a {kind} fence"))
        elif kind in ("python", "py", "pycon") and name.startswith("posts/"):
            problems.append(
                Problem(
                    file,
                    number,
                    "untested-code",
                    "Python in an article that no test runs",
                    'put it in code/formulary and show it: ```listing id="…" code="…"',
                )
            )
        previous = line if fence is None else ""
    return page


@dataclass(frozen=True)
class _Fence:
    header: str
    body: str


def _blocks(
    lines: list[str], start: int, file: str, problems: list[Problem]
) -> Iterator[tuple[int, str, _Fence | None]]:
    """Yield each line outside fences, and each whole fence at its opening line."""
    index = start - 1
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if not opening:
            yield index + 1, lines[index], None
            index += 1
            continue
        indent, ticks = opening["indent"], opening["ticks"]
        closing = re.compile(rf"^[\s>]*{re.escape(ticks[0])}{{{len(ticks)},}}\s*$")
        end = next((at for at in range(index + 1, len(lines)) if closing.match(lines[at])), None)
        if end is None:
            problems.append(
                Problem(
                    file,
                    index + 1,
                    "unclosed-fence",
                    f"the fence {ticks}{opening['header']} is never closed",
                    f"end it with a line of {ticks}",
                )
            )
            return
        body = [
            line[len(indent) :] if line.startswith(indent) else line.lstrip(" >")
            for line in lines[index + 1 : end]
        ]
        yield index + 1, lines[index], _Fence(opening["header"].strip(), "\n".join(body))
        index = end + 1


def _scan_line(page: Page, file: str, number: int, line: str, problems: list[Problem]) -> None:
    bare = _COMMENT.sub("", _CODE_SPAN.sub("", line))
    if match := _STRAY_MATH.search(bare):
        problems.append(
            Problem(
                file,
                number,
                "stray-math",
                f"display math written as {match[0]!r} has no counterpart in code",
                'write it as a fence: ```math id="…" code="…"',
            )
        )
    if "--8<--" in bare:
        problems.append(
            Problem(
                file,
                number,
                "missing-snippet",
                "an inclusion like this would stay on the page as text",
                "name the object in a fence: the card shows its source",
            )
        )
    page.references.extend((match["id"], number) for match in _REFERENCE.finditer(bare))


def _scan_fence(
    page: Page,
    file: str,
    number: int,
    kind: str,
    fence: _Fence,
    previous: str,
    problems: list[Problem],
) -> None:
    def report(rule: str, message: str, mend: str) -> None:
        problems.append(Problem(file, number, rule, message, mend))

    form = " ".join(f'{key}="…"' for key in sorted(FENCES[kind], reverse=kind != "figure"))
    header = fence.header.removeprefix(kind)
    options = {match["key"]: match["value"] for match in _OPTION.finditer(header)}
    if rest := _OPTION.sub("", header).strip():
        report("bad-fence", f"{rest!r} is no option", f"write ```{kind} {form}")
    for key in sorted(options.keys() - FENCES[kind]):
        report("unknown-option", f"'{key}' is no option of {kind}", f"write ```{kind} {form}")
    for key in sorted(FENCES[kind] - OPTIONAL - {k for k, v in options.items() if v.strip()}):
        rule = "image-without-alt" if key == "alt" else "missing-option"
        report(rule, f"the fence has no {key}", f'add {key}="…"')
    if previous.strip(" >"):
        report("fence-after-text", "no blank line before the fence", "add a blank line above it")
    if not fence.body.strip():
        report("empty-fence", "the fence is empty", "write the formula or the caption inside")
    if match := _OWN_NUMBER.search(fence.body):
        report(
            "own-number",
            f"{match[0]} in a formula that gets its number from its place",
            f"drop it; refer to the formula with [](#{options.get('id', 'id')})",
        )
    name = options.get("id", "")
    if name and not _KEBAB.fullmatch(name):
        report("bad-id", f"'{name}' is not kebab-case", "use a-z, 0-9 and single hyphens")
    kinds: dict[str, Sized] = {
        "math": page.formulas,
        "figure": page.figures,
        "listing": page.listings,
    }
    shared: dict[str, Any] = {
        "id": name,
        "page": page.path,
        "url": f"{page.url}#{name}",
        "number": len(kinds[kind]) + 1,
        "object": options.get("code", ""),
        "file": file,
        "line": number,
    }
    content = fence.body.strip()
    if kind == "math":
        page.formulas.append(Formula(title=options.get("title", ""), latex=content, **shared))
        return
    for offset, line in enumerate(fence.body.splitlines(), 1):  # a caption may cross-refer, too
        _scan_line(page, file, number + offset, line, problems)
    if kind == "listing":
        against = options.get("against", "")
        page.listings.append(Listing(against=against, caption=content, **shared))
    else:
        page.figures.append(Figure(alt=options.get("alt", ""), caption=content, **shared))


def _url(path: str, meta: dict[str, Any]) -> str:
    """A page's address: a post's is its slug, any other page's follows its path."""
    if path.startswith("posts/") and meta.get("slug"):
        return f"{str(meta['slug']).strip('/')}/"
    stem = path.removesuffix(".md")
    return "" if stem == "index" else f"{stem.removesuffix('/index')}/"


def _in_excerpt(file: str, line: int, what: str) -> Problem:
    return Problem(
        file,
        line,
        "fence-in-excerpt",
        f"{what} before {EXCERPT_END} would stand on the home page, too",
        f"move it below {EXCERPT_END}",
    )


def _file(project: Project, page: Page) -> str:
    return project.relative(project.docs / page.path)
