"""谁没有到：训练之前（或每隔一段）点一次名，到期限没来的 rank 由 rank 0 说出来。"""

import re
from datetime import timedelta

import torch.distributed as dist


def require_all_ranks(seconds: float, group: dist.ProcessGroup | None = None) -> None:
    r"""等所有的 rank 都到这里；到期限没来的，由 rank 0 在错误里一一说出。

    Args:
        seconds: rank 0 等别人的期限（秒）。
        group: 后端是 gloo 的进程组，默认是全局的那个；用 NCCL 训练时另建一个。

    Raises:
        ValueError: seconds 不是有限的正数。
        TimeoutError: 有 rank 没来。rank 0 说出是哪几个；别的 rank 说自己到了，缺谁要看 rank 0。

    约定:
        rank 0 自己没来时，别的 rank 要等到它退出，或到进程组的期限。

    出处:
        torch.distributed.monitored_barrier 的文档。

    示例:
        >>> from formulary.ddp.processes import run_ranks
        >>> run_ranks(2, lambda: require_all_ranks(5.0))
        [None, None]
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds 必须是有限的正数（秒），得到 {seconds!r}")
    rank = dist.get_rank(group)
    try:
        dist.monitored_barrier(group, timedelta(seconds=seconds), wait_all_ranks=True)
    except RuntimeError as error:
        missing = re.search(r"Ranks? ([\d, ]+) failed to pass", str(error))
        if missing:
            told = f"rank {missing[1]} 在 {seconds:g} 秒内没有到"
        else:
            told = f"rank {rank} 到了，却有别的 rank 没到或已经退出，是谁见 rank 0 的错误"
        raise TimeoutError(told) from error
