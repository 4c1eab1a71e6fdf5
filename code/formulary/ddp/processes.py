"""在本机的几个真实进程里运行一个函数：每个进程是进程组里的一个 rank，后端用 gloo。

进程由 fork 产生，函数因此可以是局部函数或 lambda，并看得到调用处的变量；Windows 没有 fork。
正式的训练用 torchrun 启动，见 train_ddp。
"""

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

GRACE = 2.0  # 秒；一个 rank 出错之后，等其余的 rank 说出自己的结果
DIED = "进程没有给出结果就结束了"
SILENT = "到期限还没有结果"


class RankError(RuntimeError):
    """某个 rank 出错、提前结束或到时没有结果；failures 是 rank 到原因的字典。

    约定:
        像是起因的排在前面：提前结束的，自己抛出异常的，到期限没有结果的，最后是通信出错的。
        同一种里按 rank 排，不按时间：几个进程几乎同时出错，先后量不准。
    """

    def __init__(self, failures: dict[int, str]) -> None:
        self.failures = dict(sorted(failures.items(), key=lambda item: (_kind(item[1]), item[0])))
        super().__init__("\n".join(f"rank {rank}：{why}" for rank, why in self.failures.items()))


def _kind(why: str) -> int:
    """失败的种类，数字小的更像起因；别的 rank 死了或没有来，gloo 才会报传输的错。"""
    if why in (DIED, SILENT):
        return 0 if why == DIED else 2
    return 3 if "gloo/transport" in why else 1


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, timeout: float = 30.0
) -> list[Any]:
    """起 world_size 个进程，各自加入同一个进程组并运行 function(*arguments)，返回各 rank 的结果。

    Args:
        world_size: 进程数，至少 1。
        function: 要运行的函数，在里面用 dist.get_rank() 得知自己是谁。
        arguments: 传给它的参数，各进程得到自己的一份。
        timeout: 每次集合通信的期限（秒）；全部进程要在它再加 GRACE 之内结束。

    Returns:
        第 r 项是 rank r 的返回值；返回值要能 pickle，也要能还原。

    Raises:
        ValueError: world_size 不是正整数，或 timeout 不是正数。
        RankError: 有 rank 抛出异常、提前结束、超过期限，或返回值不能经 pickle 传回；
            全部进程已被结束。

    约定:
        每个进程只用一个线程，免得几个进程争抢处理器。全部进程都连上之后才运行 function；
        先做完的进程随即退出，此后还等它的 rank 会得知连接断了。

    示例:
        >>> run_ranks(3, lambda: 10 * dist.get_rank())
        [0, 10, 20]
    """
    if not isinstance(world_size, int) or isinstance(world_size, bool) or world_size < 1:
        raise ValueError(f"world_size 必须是正整数，得到 {world_size!r}")
    if not timeout > 0:
        raise ValueError(f"timeout 必须是正数（秒），得到 {timeout!r}")
    context: Any = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            job = (rank, world_size, f"{folder}/store", timeout, sender, function, arguments)
            process = context.Process(target=_work, args=job, daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 起对多线程的进程 fork 会警告；子进程里不用那些线程
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            sender.close()  # 子进程一死，这一端便读到结尾
            ranks.append((process, receiver))
        try:
            return _collect([receiver for _, receiver in ranks], timeout)
        finally:
            for process, receiver in ranks:
                process.kill()
                process.join()
                receiver.close()


def _work(
    rank: int,
    world_size: int,
    store: str,
    timeout: float,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """一个进程的全部工作：加入进程组，运行函数，把结果或错误送回。"""
    torch.set_num_threads(1)  # 先于任何运算：父进程的线程池没有随 fork 过来
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        dist.barrier()  # 都连上了才开始，否则先结束的会打断别人的连接
        answer = pickle.dumps((True, function(*arguments)))
    except BaseException as error:  # SystemExit 也要说出来
        answer = pickle.dumps((False, _told(error)))
    sender.send_bytes(answer)
    sys.stdout.flush()
    # 不等清理：退出时的钩子是父进程的，不该在这里再跑一遍
    os._exit(0)


def _told(error: BaseException) -> str:
    """异常的类型与原话。"""
    return "".join(traceback.format_exception_only(error)).strip()


def _collect(receivers: list[Connection], timeout: float) -> list[Any]:
    """收齐各 rank 的回答；第一个错误之后只再等 GRACE 秒，好听到起因，而不只是它的后果。"""
    waiting = dict(zip(receivers, range(len(receivers)), strict=True))
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    deadline = time.monotonic() + timeout + GRACE
    while waiting and (ready := wait(list(waiting), max(0.0, deadline - time.monotonic()))):
        for receiver in ready:
            rank = waiting.pop(receiver)
            try:
                answer = receiver.recv_bytes()
            except (EOFError, OSError):  # EOFError 是一句也没有；死在半句上是 OSError
                failures[rank] = DIED
                continue
            try:
                succeeded, value = pickle.loads(answer)
            except Exception as error:  # pickle 还原时可以运行任何代码
                succeeded, value = False, f"返回值不能从 pickle 还原：{_told(error)}"
            (results if succeeded else failures)[rank] = value
        if failures:
            deadline = min(deadline, time.monotonic() + GRACE)
    failures |= dict.fromkeys(waiting.values(), SILENT)
    if failures:
        raise RankError(failures)
    return [results[rank] for rank in range(len(receivers))]
