"""MkDocs adapter: tells the extension which page is rendered, runs the check, publishes."""

import logging
from pathlib import Path
from typing import Any, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.livereload import LiveReloadServer
from mkdocs.plugins import BasePlugin, event_priority, get_plugin_logger
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import get_toc

from formulary_site import check
from formulary_site.extension import Rendering, begin_rendering
from formulary_site.notebooks.page import notebook_page
from formulary_site.problems import Problem, SourceError
from formulary_site.project import Project
from formulary_site.publish import SCRIPTS, STYLES, publish
from formulary_site.site import Site

log = get_plugin_logger("formulary")

# Who edits code while the site is served sees 「未验证」 on the card, not a dead server
TOLERATED_WHILE_SERVING = {"stale-evidence", "missing-evidence", "stale-notebook"}


class FormularyPlugin(BasePlugin):  # type: ignore[type-arg, no-untyped-call]
    """At most a thin layer: all that matters is in the modules that it calls."""

    site: Site
    renderings: dict[str, Rendering]
    serving = False

    def on_startup(self, *, command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
        self.serving = command == "serve"
        logging.getLogger("jieba").disabled = True  # it reports its dictionary at each start

    def on_config(self, config: MkDocsConfig) -> MkDocsConfig:
        self.site = Site(Project(Path(config.config_file_path).parent)).make_current()
        self.renderings = {}
        config.extra_css.extend(name for name in STYLES if name not in config.extra_css)
        config.extra_javascript.extend(
            name for name in SCRIPTS if name not in config.extra_javascript
        )
        return config

    def on_pre_build(self, *, config: MkDocsConfig) -> None:
        self._report(check.source_problems(self.site))

    @event_priority(100)  # before plugins that render parts of the page
    def on_page_markdown(self, markdown: str, *, page: Page, **_: Any) -> None:
        path = page.file.src_uri
        known = self.site.registry.by_path.get(path)
        if known and known.url != page.url.removeprefix("./"):
            raise PluginError(f"{path}: MkDocs says '{page.url}', the registry '{known.url}'")
        self.renderings[path] = begin_rendering(path, page.url.removeprefix("./"))

    def on_page_content(self, html: str, *, page: Page, **_: Any) -> str:
        if page.file.src_uri.endswith(".ipynb"):
            try:
                html, tokens = notebook_page(self.site, html, page.file.src_uri, page.url)
            except SourceError as error:
                raise PluginError(str(error)) from None
            page.toc = get_toc(tokens)  # type: ignore[arg-type] # its name for them is private
        return html

    def on_env(self, env: Any, **_: Any) -> None:
        self._report(check.rendering_problems(self.site, self.renderings))

    @event_priority(100)  # before the blog renders excerpts onto this page
    def on_page_context(self, context: Any, *, page: Page, **_: Any) -> None:
        begin_rendering(page.file.src_uri, page.url.removeprefix("./"), excerpt=True)

    def on_post_build(self, *, config: MkDocsConfig) -> None:
        publish(self.site, Path(config.site_dir))

    def on_serve(self, server: LiveReloadServer, **_: Any) -> None:
        server.watch(str(self.site.project.code))
        server.watch(str(self.site.project.tests / "formulary"))

    def on_shutdown(self) -> None:
        if hasattr(self, "site"):
            self.site.close()

    def _report(self, problems: list[Problem]) -> None:
        if self.serving:
            for problem in problems:
                if problem.rule in TOLERATED_WHILE_SERVING:
                    log.warning(str(problem))
            problems = [p for p in problems if p.rule not in TOLERATED_WHILE_SERVING]
        if problems:
            raise PluginError(str(SourceError(problems)))
