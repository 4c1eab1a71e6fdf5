"""The check that CLI, tests and builders share: all that is wrong with the source, and where."""

import posixpath
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from markdown import Markdown
from pymdownx.superfences import SuperFencesException

from formulary_site.extension import Rendering, rendering
from formulary_site.figures.drawing import FigureError
from formulary_site.notebooks import runs
from formulary_site.problems import Problem, SourceError, suggestion
from formulary_site.proof import links
from formulary_site.registry import EXCERPT_END, Listing, Page
from formulary_site.site import Site


def source_problems(site: Site) -> list[Problem]:
    """What can be told without rendering a page."""
    return [
        *site.registry.problems,
        *(problem for page in site.registry.pages for problem in _front_matter(site, page)),
        *_objects(site),
        *_figures(site),
        *_snippets(site),
        *links.problems(site.project, site.definitions, site.objects, site.scripts),
        *site.evidence.problems(site.registry.proven.values(), site.definitions, site.tests),
        *runs.problems(site.project, site.definitions),
    ]


def rendering_problems(site: Site, renderings: Mapping[str, Rendering]) -> list[Problem]:
    """What rendering each page, by its path below `docs`, brought to light."""
    problems: list[Problem] = []
    for page in site.registry.pages:
        if facts := renderings.get(page.path):
            problems.extend(_tex(site, page, facts))
            problems.extend(_links(site, page, facts, renderings))
    return problems


def render_all(site: Site) -> dict[str, Rendering]:
    """Render every page with the extensions that mkdocs.yml names."""
    names: list[Any] = []
    options: dict[str, Any] = {}
    for entry in site.project.config.get("markdown_extensions", []):
        if isinstance(entry, dict):
            ((name, values),) = entry.items()
            options[name] = values or {}
        else:
            name = entry
        names.append(name)
    site.make_current()
    results = {}
    for page in site.registry.pages:
        # Python-Markdown knows what these are only together; MkDocs adds the same three
        md = Markdown(
            extensions=["toc", "tables", "fenced_code", *names], extension_configs=options
        )
        with rendering(page.path, page.url) as facts:
            try:
                md.convert(page.body)
            except SuperFencesException:
                continue  # a broken fence, which source_problems reports with its line
        results[page.path] = facts
    return results


def check(site: Site) -> list[Problem]:
    """Everything, sorted by place."""
    return sorted({*source_problems(site), *rendering_problems(site, render_all(site))})


def _line(page: Page, *needles: str) -> int:
    """The first line of the page that holds one of the strings."""
    for needle in needles:
        if (at := page.text.find(needle)) >= 0:
            return page.text.count("\n", 0, at) + 1
    return 1


def _file(site: Site, page: Page) -> str:
    return site.project.relative(site.project.docs / page.path)


def _objects(site: Site) -> Iterator[Problem]:
    definitions = site.definitions
    public = [definition.path for definition in definitions.public()]
    for item in site.registry.proven.values():
        definition = definitions.get(item.object)
        if not item.object:
            continue  # a missing option, which the scan reports
        if isinstance(item, Listing) and (yield from _against(site, item)):
            continue
        if definition is None:
            yield Problem(
                item.file,
                item.line,
                "unknown-object",
                f"formulary.{item.object} does not exist",
                f"name a function or class below code/formulary{suggestion(item.object, public)}",
            )
        elif not definition.is_public or definition.kind == "constant":
            what = "private" if not definition.is_public else "not a function or class"
            yield Problem(
                item.file,
                item.line,
                "bad-object",
                f"formulary.{item.object} is {what}",
                "name a public function or class",
            )


def _against(site: Site, listing: Listing) -> Generator[Problem, None, bool]:
    """Whether the listing shows a script; and what it is compared with must be one, too."""
    is_script = listing.object in site.scripts
    if listing.against and not is_script:
        message = f"formulary.{listing.object} is no module, so it has no difference from another"
        yield Problem(listing.file, listing.line, "bad-object", message, "drop `against`")
    elif listing.against and not site.definitions.module_file(listing.against):
        message = f"formulary.{listing.against} is no module"
        mend = "let `against` name a module below code/formulary"
        yield Problem(listing.file, listing.line, "unknown-object", message, mend)
    return is_script


def _figures(site: Site) -> Iterator[Problem]:
    for figure in site.registry.figures.values():
        if not figure.object:
            continue
        if figure.object not in site.definitions:
            yield Problem(
                figure.file,
                figure.line,
                "missing-figure",
                f"formulary.{figure.object} does not exist",
                "write it: a function without arguments that returns a matplotlib Figure",
            )
        elif isinstance(error := site.drawings.get(figure.object), FigureError):
            yield Problem(
                figure.file,
                figure.line,
                "figure-failed",
                f"formulary.{figure.object}: {error}",
                "make the function run; try it in a Python shell",
            )


def _front_matter(site: Site, page: Page) -> Iterator[Problem]:
    if not page.path.startswith("posts/"):
        return
    file = _file(site, page)
    blog, tags = (_plugin(site, name) for name in ("blog", "tags"))
    if not page.meta.get("date"):
        yield Problem(file, 1, "missing-date", "the post has no date", "add `date: YYYY-MM-DD`")
    for key in ("slug", "description"):
        if not page.meta.get(key):
            yield Problem(file, 1, f"missing-{key}", f"the post has no {key}", f"add `{key}: …`")
    for key, rule, allowed in (
        ("categories", "unknown-category", blog.get("categories_allowed")),
        ("tags", "unknown-tag", tags.get("tags_allowed")),
    ):
        for value in page.meta.get(key) or []:
            if allowed is not None and value not in allowed:
                yield Problem(
                    file,
                    _line(page, f"{key}:"),
                    rule,
                    f"'{value}' is not among the {key} that mkdocs.yml allows",
                    f"use one of {', '.join(map(str, allowed))}, or allow it there",
                )
    if EXCERPT_END not in page.text:
        yield Problem(
            file,
            1,
            "missing-excerpt",
            "the post doesn't say where its excerpt ends",
            f"put {EXCERPT_END} on a line of its own after the first paragraphs",
        )


def _plugin(site: Site, name: str) -> dict[str, Any]:
    for entry in site.project.config.get("plugins", []):
        if isinstance(entry, dict) and name in entry:
            return entry[name] or {}
    return {}


def _tex(site: Site, page: Page, facts: Rendering) -> Iterator[Problem]:
    file = _file(site, page)
    for tex, message in facts.errors:
        yield Problem(
            file,
            _line(page, tex, tex.splitlines()[0]),
            "tex-error",
            f"MathJax refuses {tex!r}: {message}",
            "correct the TeX",
        )
    for text in facts.texts:
        yield Problem(
            file,
            _line(page, text),
            "stray-math",
            f"mathematics survives as text: {text[:60]!r}",
            'write display math as a fence: ```math id="…" code="…"',
        )


def _links(
    site: Site, page: Page, facts: Rendering, renderings: Mapping[str, Rendering]
) -> Iterator[Problem]:
    file = _file(site, page)
    for source, alt in facts.images:
        if not alt.strip():
            yield Problem(
                file,
                _line(page, f"![]({source}", source),
                "image-without-alt",
                f"the image {source} has no alternative text",
                "write ![what the image shows](…)",
            )
    for target in [*facts.links, *(source for source, _ in facts.images)]:
        if ":" in target.split("/")[0] or target.startswith("//"):
            continue  # another host or a mail address
        path, _, anchor = target.partition("#")
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), path))
        line = _line(page, f"({target}", f"#{anchor}" if anchor else target)
        if not path:
            goal = page.path
        elif not (site.project.docs / goal).is_file():
            mend = "link to the source file, e.g. ../rope/index.md"
            yield Problem(file, line, "broken-link", f"{target} leads to no file in docs/", mend)
            continue
        if anchor and goal in renderings and anchor not in renderings[goal].ids:
            yield Problem(
                file,
                line,
                "broken-anchor",
                f"{goal} has no place named #{anchor}",
                f"use an id of that page{suggestion(anchor, renderings[goal].ids)}",
            )


def _snippets(site: Site) -> tuple[Problem, ...]:
    try:
        _ = site.snippets
    except SourceError as error:
        return error.problems
    return ()
