"""检查点的检验：在每一种地方弄坏文件，最近的完好的那个总读得回来，并说出谁坏了。"""

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from formulary.ddp import checkpoint as module
from formulary.ddp import train_elastic
from formulary.ddp.checkpoint import (
    CheckpointError,
    content_digest,
    load_latest,
    save_checkpoint,
)


def _state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"weight": torch.randn(3, 4, generator=generator), "steps": step},
        "random": [(random.Random(step).getstate(), generator.get_state())],
    }


def _three(folder: Path) -> list[Path]:
    return [save_checkpoint(folder, step, _state(step), keep=3) for step in (2, 4, 10)]


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "one_byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "last_byte_missing": lambda content: content[:-1],
    "first_bit": lambda content: _flip(content, 0),
    "middle_bit": lambda content: _flip(content, len(content) // 2),
    "last_bit": lambda content: _flip(content, len(content) - 1),
    "longer": lambda content: content + b"\0",
    "other_file": lambda content: b"step-00000010",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_load_latest__equals_previous_good_state_after_damage(tmp_path: Path, damage: str) -> None:
    """最新的文件截短、清空、翻转一位、多一字节：读到的是前一个完好的，并说出哪个坏了、为什么。"""
    paths = _three(tmp_path)
    paths[2].write_bytes(DAMAGE[damage](paths[2].read_bytes()))
    found = load_latest(tmp_path)
    assert found.step == 4
    assert found.path == paths[1]
    torch.testing.assert_close(found.state["model"]["weight"], _state(4)["model"]["weight"])
    assert len(found.rejected) == 1
    assert paths[2].name in found.rejected[0]
    assert ("空" if damage == "empty" else "校验和不符") in found.rejected[0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_load_latest__equals_result_of_the_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """train_elastic 里的短写法读写同样的文件，遇到同样的损坏也作同样的选择。"""
    train_elastic.write_checkpoint(tmp_path, 3, _state(3))
    train_elastic.write_checkpoint(tmp_path, 12, _state(12))
    newest = train_elastic.checkpoints(tmp_path)[-1]
    assert load_latest(tmp_path).step == train_elastic.newest_checkpoint(tmp_path)[0] == 12
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    step, state = train_elastic.newest_checkpoint(tmp_path)
    assert step == load_latest(tmp_path).step == 3
    torch.testing.assert_close(state["model"]["weight"], _state(3)["model"]["weight"])
    assert newest.name in capsys.readouterr().out
    train_elastic.checkpoints(tmp_path)[0].write_bytes(b"")
    with pytest.raises(RuntimeError, match="全都坏了"):
        train_elastic.newest_checkpoint(tmp_path)


def test_load_latest__matches_torch_load(tmp_path: Path) -> None:
    """文件就是 torch.save 的原样：torch.load 直接读，得到同样的张量、数与元组。"""
    path = _three(tmp_path)[2]
    found, expected = load_latest(tmp_path), torch.load(path, weights_only=True)
    assert found.step == 10
    assert found.rejected == []
    torch.testing.assert_close(found.state["model"], expected["model"])
    assert found.state["random"][0][0] == random.Random(10).getstate()
    torch.testing.assert_close(found.state["random"][0][1], _state(10)["random"][0][1])


def test_load_latest__rejects_folder_of_damaged_files(tmp_path: Path) -> None:
    """全都坏了就报错，逐个说出缘由；不能悄悄从头训练。"""
    for path in _three(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        load_latest(tmp_path)
    assert all(f"step-{step:08d}" in str(caught.value) for step in (2, 4, 10))


def test_load_latest__is_none_without_checkpoints(tmp_path: Path) -> None:
    """没有文件夹、空文件夹、只有没写完的临时文件与无关的文件：从头训练。"""
    assert load_latest(tmp_path / "missing") is None
    assert load_latest(tmp_path) is None
    (tmp_path / "writing.tmp").write_bytes(b"half")
    (tmp_path / "step-00000001-0123456789abcdef.pt.tmp").write_bytes(b"x")
    (tmp_path / "final.pt").write_bytes(b"x")
    assert load_latest(tmp_path) is None


def test_load_latest__is_by_number_not_by_time_or_text(tmp_path: Path) -> None:
    """最新指步数最大：与写的先后、文件的时间、数字的位数都无关。"""
    for step in (100_000_000, 99_999_999, 7):
        save_checkpoint(tmp_path, step, {"step": step}, keep=9)
    assert load_latest(tmp_path).state == {"step": 100_000_000}


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_save_checkpoint__preserves_earlier_file_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """写到一半磁盘满了、落盘失败、改名之前进程死了：留下的只是临时文件，上一个照样读得到。"""
    save_checkpoint(tmp_path, 2, _state(2))

    def fail(*_arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        if place == "write":

            def half(path: Path, *_arguments: object) -> None:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
                fail()

            patch.setattr(module.Path, "open", half)
        else:
            patch.setattr(module.os, place, fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, 4, _state(4))
    assert (tmp_path / "writing.tmp").exists()
    assert load_latest(tmp_path).step == 2
    assert load_latest(tmp_path).rejected == []
    save_checkpoint(tmp_path, 4, _state(4))  # 临时文件被覆盖，不必清理
    assert load_latest(tmp_path).step == 4
    assert not (tmp_path / "writing.tmp").exists()


def test_save_checkpoint__preserves_order_of_flush_and_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """先落盘再改名，改名之后才删旧的：记下系统调用的次序，改名那一刻旧文件还在。"""
    calls = list[str]()
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def record(*arguments: Any, original: Any = original, name: str = name) -> Any:
            calls.append(f"{name} {len(list(tmp_path.glob('step-*')))}")
            return original(*arguments)

        monkeypatch.setattr(module.os, name, record)
    save_checkpoint(tmp_path, 2, _state(2), keep=1)
    save_checkpoint(tmp_path, 4, _state(4), keep=1)
    assert [call for call in calls if call.startswith("replace")] == ["replace 0", "replace 1"]
    # 改名之后再让文件夹落盘；Windows 不能打开文件夹
    first = ["fsync 0", "replace 0"] + ["fsync 1"] * (os.name == "posix")
    assert calls[: len(first)] == first
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000004"]


def test_save_checkpoint__matches_hashlib(tmp_path: Path) -> None:
    """文件名里的校验和就是文件内容的 SHA-256 的前 16 位。"""
    path = save_checkpoint(tmp_path, 42, _state(42))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.name == f"step-00000042-{digest[:16]}.pt"


def test_save_checkpoint__is_pruned_to_the_newest(tmp_path: Path) -> None:
    """只留最近的 keep 个；同一步的旧文件被取代；步数更大的不动。"""
    for step in range(5):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == [
        "step-00000003",
        "step-00000004",
    ]
    damaged = max(tmp_path.iterdir())
    damaged.write_bytes(b"")
    replaced = save_checkpoint(tmp_path, 4, {"step": 4, "again": True}, keep=2)
    assert replaced != damaged
    assert not damaged.exists()
    later = tmp_path / "step-00000009-0123456789abcdef.pt"
    later.write_bytes(b"")
    save_checkpoint(tmp_path, 6, {"step": 6}, keep=3)
    assert sorted(path.name[12] for path in tmp_path.iterdir()) == ["3", "4", "6", "9"]
    assert load_latest(tmp_path).step == 6
    save_checkpoint(tmp_path, 9, {"step": 9}, keep=3)
    assert not later.exists()


def test_save_checkpoint__rejects_bad_input(tmp_path: Path) -> None:
    """步数、个数不对，状态不是字典或读不回来时报错，不留下文件。"""
    for step in (-1, 1.0):
        with pytest.raises(ValueError, match="step"):
            save_checkpoint(tmp_path, step, {})
    with pytest.raises(ValueError, match="keep"):
        save_checkpoint(tmp_path, 1, {}, keep=0)
    with pytest.raises(ValueError, match="state 必须是字典"):
        save_checkpoint(tmp_path, 1, [1])
    with pytest.raises(ValueError, match="读不回来"):
        save_checkpoint(tmp_path, 1, {"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def test_content_digest__equals_published_vectors() -> None:
    """FIPS 180 的例子：空串与 abc。"""
    assert content_digest(b"") == "e3b0c44298fc1c14"
    assert content_digest(b"abc") == "ba7816bf8f01cfea"


def test_content_digest__rejects_text() -> None:
    """不是 bytes 时报错。"""
    with pytest.raises(ValueError, match="content"):
        content_digest("abc")


def test_load_latest__differs_from_torch_load_on_a_flipped_bit(tmp_path: Path) -> None:
    """别处常见错误：torch.load 不核对校验和，张量里翻转一位照样读进来，得到别的数。"""
    weight = torch.arange(4096, dtype=torch.float32)
    path = save_checkpoint(tmp_path, 1, {"weight": weight})
    content = path.read_bytes()
    place = content.index(weight.numpy().tobytes()[64:256])
    path.write_bytes(_flip(content, place + 2))
    read = torch.load(path, weights_only=True)["weight"]
    assert (read != weight).sum() == 1
    with pytest.raises(CheckpointError, match="校验和不符"):
        load_latest(tmp_path)
