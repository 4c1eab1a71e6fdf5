"""写坏了也不丢的检查点：先写临时文件再改名，文件名里带校验和，读的时候逐个验证。

文件名是 step-00000042-<SHA-256 的前 16 位十六进制>.pt，内容是 torch.save 的原样，
所以不用本模块也能读：torch.load(path, weights_only=True)。

约定:
    一个文件夹只由一个进程写，DDP 里是 rank 0。
"""

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from formulary.checks import require_count

DIGITS = 16  # 文件名里校验和的位数；内容改变而碰巧不变的概率是 2 的 −64 次方
TEMPORARY = "writing.tmp"  # 上次没写完的，下次覆盖
PATTERN = re.compile(rf"step-(\d+)-([0-9a-f]{{{DIGITS}}})\.pt")


class CheckpointError(RuntimeError):
    """文件夹里有检查点，却没有一个是完好的。"""


class Checkpoint(NamedTuple):
    """读到的检查点；rejected 是比它新却坏了的文件，每项说出文件名与缘由。"""

    step: int
    state: dict[str, Any]
    path: Path
    rejected: list[str]


def save_checkpoint(
    folder: str | os.PathLike[str], step: int, state: dict[str, Any], keep: int = 2
) -> Path:
    r"""把训练状态写成一个检查点：写临时文件、落盘、改名，最后才删旧的。

    Args:
        folder: 存检查点的文件夹，没有就建。
        step: 已经完成的步数 t（步）。
        state: 训练状态；只放张量、数、字符串与由它们组成的字典、列表、元组。
        keep: 一共留下最近的几个（个）。

    Returns:
        写好的文件的路径。

    Raises:
        ValueError: step 不是非负整数，state 不是字典或读不回来，或 keep 不是正整数。
        OSError: 写不进去，例如磁盘满了；已有的检查点不受影响。

    约定:
        同一步的旧文件被新的取代；步数更大的文件不动。

    出处:
        本站的做法；改名是原子的，见 os.replace 的文档。

    示例:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp(dir=".")
        >>> save_checkpoint(folder, 6, {"weight": torch.zeros(2)}).name[:14]
        'step-00000006-'
    """
    require_count("step", step, least=0)
    require_count("keep", keep)
    if not isinstance(state, dict):
        raise ValueError(f"state 必须是字典，得到 {type(state)}")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ValueError(f"state 存得下却读不回来，读时只许 weights_only=True：{error}") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}-{content_digest(content)}.pt"
    with (folder / TEMPORARY).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # 先让内容落盘，再让名字生效
    os.replace(folder / TEMPORARY, path)
    _sync_folder(folder)
    _prune(folder, step, path, keep)
    return path


def load_latest(folder: str | os.PathLike[str]) -> Checkpoint | None:
    r"""读最近的一个完好的检查点；坏了的跳过，并说出是哪一个、为什么。

    Args:
        folder: 存检查点的文件夹，可以还不存在。

    Returns:
        检查点；一个文件也没有时是 None，可以从头训练。

    Raises:
        CheckpointError: 有检查点，但全都坏了；此时不该悄悄从头训练。

    约定:
        张量读到 CPU 上；没写完的临时文件不算检查点。

    出处:
        本站的做法。

    示例:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp(dir=".")
        >>> path = save_checkpoint(folder, 6, {"lr": 0.1})
        >>> load_latest(folder).state
        {'lr': 0.1}
    """
    rejected = list[str]()
    for step, path in reversed(_checkpoints(Path(folder))):
        try:
            return Checkpoint(step, _read(path), path, rejected)
        except (OSError, ValueError) as error:
            rejected.append(f"{path.name}：{error}")
    if rejected:
        raise CheckpointError(f"{folder} 里的检查点全都坏了：" + "；".join(rejected))
    return None


def content_digest(content: bytes) -> str:
    r"""文件名里的校验和：SHA-256 的前 16 位十六进制。

    Args:
        content: 文件的内容（字节）。

    Returns:
        16 个字符的字符串。

    Raises:
        ValueError: content 不是 bytes。

    出处:
        FIPS 180-4。

    示例:
        >>> content_digest(b"abc")
        'ba7816bf8f01cfea'
    """
    if not isinstance(content, bytes):
        raise ValueError(f"content 必须是 bytes，得到 {type(content)}")
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """文件夹里名字合格的文件，按步数从小到大。"""
    files = folder.iterdir() if folder.is_dir() else ()
    matches = [(PATTERN.fullmatch(path.name), path) for path in files]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _read(path: Path) -> dict[str, Any]:
    """读一个文件并验证；ValueError 说出哪里不对。"""
    content = path.read_bytes()
    wanted = path.stem.rpartition("-")[2]
    if not content:
        raise ValueError("文件是空的")
    if (found := content_digest(content)) != wanted:
        raise ValueError(f"校验和不符，应为 {wanted}，实为 {found}（{len(content)} 字节）")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _prune(folder: Path, step: int, written: Path, keep: int) -> None:
    """删去同一步的旧文件，再把不晚于这一步的只留最近 keep 个。"""
    others = [(at, other) for at, other in _checkpoints(folder) if at <= step and other != written]
    earlier = [other for at, other in others if at < step]
    superseded = [other for at, other in others if at == step]
    for other in superseded + earlier[: max(0, len(earlier) - keep + 1)]:
        other.unlink()


def _sync_folder(folder: Path) -> None:
    """让改名也落盘；Windows 不能打开文件夹，改名由系统负责。"""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
