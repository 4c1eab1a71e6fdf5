"""A whole small project that is right, for tests that break one thing of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from formulary_site.problems import Problem
from formulary_site.project import Project
from formulary_site.proof.evidence import Entry, Evidence, Shown
from formulary_site.site import Site

ROOT = Path(__file__).parents[2]

FILES = {
    "mkdocs.yml": """\
site_name: Small
extra: { repository: https://example.org/small }
theme: { name: material, font: false }
plugins:
  - blog: { blog_dir: ., post_url_format: "{slug}", categories_allowed: [Good], archive: false }
  - tags: { tags_allowed: [good] }
  - search
  - formulary
  - mkdocs-jupyter: { include: ["notebooks/*.ipynb"], execute: false, include_source: true }
markdown_extensions: [formulary, admonition, attr_list, pymdownx.details]
validation: { links: { anchors: ignore } }
""",
    "docs/index.md": "# HOME\n",
    "docs/posts/small/index.md": """\
---
title: 小例
date: 2026-11-20
slug: small
description: 一句话。
categories: [Good]
tags: [good]
---

# 小例

开头，$x_i$ 是行内公式。

<!-- more -->

## 正文

见 [](#small-double) 与 [](#fig-small)。

```math id="small-double" code="small.core.double"
y = 2x
```

正文继续。

```figure id="fig-small" code="small.figures.line" alt="一条直线"
图注，$y$ 是纵轴。
```

[下一篇](more.md#small-triple)
""",
    "docs/posts/small/more.md": """\
---
title: 小例（二）
date: 2026-11-21
slug: small/more
description: 一句话。
categories: [Good]
tags: [good]
---

# 小例（二）

开头。

<!-- more -->

```math id="small-triple" code="small.core.triple"
y = 3x
```

参见 [](#small-double) 与 [](#small-script)。

```listing id="small-listing" code="small.core.double"
一个函数，$x$ 是输入。
```

```listing id="small-script" code="small.script" against="small.script_before"
多了一行，见 [](#small-double)。
```
""",
    "code/formulary/__init__.py": '"""公式集。"""\n',
    "code/formulary/small/__init__.py": '"""小例。"""\n',
    "code/formulary/small/core.py": '''\
"""小例的对应实现。"""

from torch import Tensor

FACTOR = 2


def double(x: Tensor) -> Tensor:
    """把 x 加倍。

    示例:
        >>> double(torch.tensor([1.0, 2.0]))
        tensor([2., 4.])
    """
    return scale(x, FACTOR)


def triple(x: Tensor) -> Tensor:
    """把 x 变成三倍。

    示例:
        >>> triple(torch.tensor([1.0]))
        tensor([3.])
    """
    return x + double(x)


def scale(x: Tensor, factor: int) -> Tensor:
    """把 x 乘以 factor。"""
    return factor * x
''',
    "code/formulary/small/script_before.py": '''\
"""加倍之前。"""

import torch

if __name__ == "__main__":
    x = torch.ones(2)
    print(x)
''',
    "code/formulary/small/script.py": '''\
"""加倍。"""

import torch


def main() -> None:
    """加倍并打印。"""
    print(2 * torch.ones(2))


if __name__ == "__main__":
    main()
''',
    "code/formulary/small/figures.py": '''\
"""小例的插图。"""

from matplotlib import pyplot
from matplotlib.figure import Figure


def line() -> Figure:
    """一条直线。"""
    figure, axes = pyplot.subplots()
    axes.plot([0, 1])
    return figure
''',
    "tests/formulary/small/test_core.py": '''\
import torch

from formulary.small.core import double, triple

X = torch.tensor([1.0, 2.0])


def test_double__matches_sum():
    """与自加一致。"""
    torch.testing.assert_close(double(X), X + X)


def test_double__equals_hand_example():
    """1 的两倍是 2。"""
    assert double(X)[0] == 2


def test_triple__matches_sum():
    """与连加一致。"""
    torch.testing.assert_close(triple(X), X + X + X)


def test_triple__equals_hand_example():
    """1 的三倍是 3。"""
    assert triple(X)[0] == 3
''',
}


def write_evidence(project: Project) -> None:
    """The lock file that a green run of the project's tests would write."""
    site = Site(project)
    entries = {}
    for item in site.registry.proven.values():
        if item.object in site.definitions:
            shown = tuple(
                Shown(test.name, test.docstring, test.kind, "passed")
                for test in site.tests.get(item.object, [])
            )
            digest = site.definitions.digest(item.object)
            entries[item.id] = Entry(item.object, digest, 1e-7, shown)
    Evidence("2.13.0", entries).save(project)


@pytest.fixture
def small(tmp_path: Path) -> Project:
    """The project, right in every respect; MathJax and its cache are the real project's."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    cache = ROOT / ".cache" / "formulary"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "formulary").symlink_to(cache)
    project = Project(tmp_path)
    write_evidence(project)
    return project


Edit = Callable[..., None]


@pytest.fixture
def edit(small: Project) -> Edit:
    """Replace one string in a file of the small project; it must be there."""

    def replace(name: str, old: str, new: str) -> None:
        path = small.root / name
        text = path.read_text("utf-8")
        assert old in text, f"{name} holds no {old!r}"
        path.write_text(text.replace(old, new, 1), "utf-8")

    return replace


def line_of(project: Project, name: str, needle: str) -> int:
    """The line of a file on which a string first stands."""
    text = (project.root / name).read_text("utf-8")
    return text[: text.index(needle)].count("\n") + 1


def found(problems: list[Problem], rule: str) -> list[tuple[str, int]]:
    """The places at which a rule is broken; every problem says how to mend it."""
    assert all(problem.mend and problem.message for problem in problems)
    return [(problem.file, problem.line) for problem in problems if problem.rule == rule]
