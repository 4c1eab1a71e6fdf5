"""代价模型：逐条消息的模拟（用分数计时、真的搬运数据）、穷举与最小二乘。"""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from formulary.ddp.cost_models import (
    allreduce_lower_bound,
    bus_bandwidth,
    colocated_server_time,
    fit_alpha_beta,
    halving_doubling_time,
    parameter_server_time,
    ring_time,
    ring_tree_crossover,
    tree_time,
)

ALPHA, BETA, GAMMA = 3.0, 0.5, 0.25  # 二进制里都精确
COSTS = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}
Move = tuple[int, int, range, bool]  # 发送方，接收方，哪些元素，相加还是覆盖


class Network:
    """单口的网络：每个结点有自己的时钟和数据，一个元素一字节，数据是各 rank 贡献的计数。"""

    def __init__(self, ranks: int, elements: int, servers: int = 0) -> None:
        self.clock = [Fraction(0)] * (ranks + servers)
        self.sent = [0] * (ranks + servers)
        self.data = [[Counter([r]) for _ in range(elements)] for r in range(ranks)]
        self.data += [[Counter() for _ in range(elements)] for _ in range(servers)]

    def round(self, moves: list[Move], gamma: float = GAMMA) -> None:
        """同时的一轮消息：两端都空出来才开始，各口只有一条；接收方的相加接在后面。"""
        for port in (0, 1):
            busy = [move[port] for move in moves]
            assert len(busy) == len(set(busy)), "一个口同一时刻只有一条消息"
        old = list(self.clock)
        payloads = [[Counter(self.data[a][i]) for i in part] for a, _, part, _ in moves]
        for (a, b, part, add), payload in zip(moves, payloads, strict=True):
            end = max(old[a], old[b]) + Fraction(ALPHA) + Fraction(BETA) * len(part)
            self.sent[a] += len(part)
            self.clock[a] = max(self.clock[a], end)
            self.clock[b] = max(self.clock[b], end + Fraction(gamma) * len(part) * add)
            for i, value in zip(part, payload, strict=True):
                self.data[b][i] = self.data[b][i] + value if add else value

    def finish(self, ranks: int) -> float:
        """核对每个 rank 都有各 rank 恰好一次的贡献，返回最晚的时刻。"""
        for mine in self.data[:ranks]:
            assert all(value == Counter(range(ranks)) for value in mine)
        return float(max(self.clock[:ranks]))


def _part(chunk: int, length: int) -> range:
    return range(chunk * length, (chunk + 1) * length)


@pytest.mark.parametrize(("n", "length"), [(1, 5), (2, 6), (3, 2), (4, 3), (8, 1)])
def test_ring_time__matches_simulated_messages(n: int, length: int) -> None:
    """环形归约逐条消息的模拟，时间相同，每个 rank 发出的字节也相同。"""
    network = Network(n, n * length)
    for s in range(n - 1):
        network.round([(r, (r + 1) % n, _part((r - s) % n, length), True) for r in range(n)])
    for s in range(n - 1):
        network.round([(r, (r + 1) % n, _part((r + 1 - s) % n, length), False) for r in range(n)])
    actual = ring_time(n, float(n * length), **COSTS)
    torch.testing.assert_close(actual, network.finish(n))
    assert network.sent == [2 * (n - 1) * length] * n


def test_ring_time__equals_worked_example() -> None:
    """N = 4、8 字节、α = 3、β = 1/2、γ = 1/4：6·3 + 12/2 + 6/4 = 25.5 秒。"""
    torch.testing.assert_close(ring_time(4, 8.0, **COSTS), 25.5)
    torch.testing.assert_close(ring_time(1, 8.0, **COSTS), 0.0)


def test_ring_time__equals_exercise() -> None:
    """练习：8 个 rank、100 MB、20 微秒、10 GB/s、不计相加：17.78 毫秒，延迟只占 0.28 毫秒。"""
    seconds = ring_time(8, 1e8, alpha=2e-5, beta=1e-10)
    assert round(seconds * 1e3, 2) == 17.78
    assert round(ring_time(8, 0.0, alpha=2e-5, beta=1e-10) * 1e3, 2) == 0.28
    assert round(1e8 / seconds / 1e9, 2) == 5.62
    assert round(bus_bandwidth(1e8, seconds, 8) / 1e9, 2) == 9.84
    assert round(tree_time(8, 1e8, alpha=2e-5, beta=1e-10) * 1e3, 2) == 60.12


@pytest.mark.parametrize("n", range(1, 10))
def test_tree_time__matches_simulated_messages(n: int) -> None:
    """二项树逐条消息的模拟，N 不是 2 的幂也相同。"""
    network, everything = Network(n, 6), range(6)
    distances = [2**k for k in range(10) if 2**k < n]
    for d in distances:
        moves = [(r, r - d, everything, True) for r in range(n) if r % (2 * d) == d]
        network.round(moves)
    for d in reversed(distances):
        network.round([(r - d, r, everything, False) for r in range(n) if r % (2 * d) == d])
    torch.testing.assert_close(tree_time(n, 6.0, **COSTS), network.finish(n))


def test_tree_time__equals_worked_example() -> None:
    """N = 4、8 字节：2·2·(3 + 4) + 2·8/4 = 32 秒；N = 5 要三轮，48 秒。"""
    torch.testing.assert_close(tree_time(4, 8.0, **COSTS), 32.0)
    torch.testing.assert_close(tree_time(5, 8.0, **COSTS), 48.0)


@pytest.mark.parametrize(("n", "length"), [(1, 4), (2, 3), (4, 2), (8, 3)])
def test_halving_doubling_time__matches_simulated_messages(n: int, length: int) -> None:
    """折半倍增逐条消息的模拟，时间相同，每个 rank 发出的字节与环一样。"""
    network = Network(n, n * length)
    half, steps = n // 2, []
    spans = [range(n * length)] * n
    while half:
        moves, kept = [], list(spans)
        for r in range(n):
            middle = (spans[r].start + spans[r].stop) // 2
            low, high = range(spans[r].start, middle), range(middle, spans[r].stop)
            kept[r], away = (high, low) if r & half else (low, high)
            moves.append((r, r ^ half, away, True))
        network.round(moves)
        steps.append(half)
        spans, half = kept, half // 2
    for distance in reversed(steps):
        network.round([(r, r ^ distance, spans[r], False) for r in range(n)])
        both = [(spans[r], spans[r ^ distance]) for r in range(n)]
        spans = [range(min(a.start, b.start), max(a.stop, b.stop)) for a, b in both]
    actual = halving_doubling_time(n, float(n * length), **COSTS)
    torch.testing.assert_close(actual, network.finish(n))
    assert network.sent == [2 * (n - 1) * length] * n


def test_halving_doubling_time__bounds_ring_from_below() -> None:
    """与环只差延迟：少 2(N − 1 − log₂N) 个 α；N = 2 时相同。"""
    for n in (2, 4, 8, 64):
        gap = ring_time(n, 640.0, **COSTS) - halving_doubling_time(n, 640.0, **COSTS)
        torch.testing.assert_close(gap, 2 * (n - 1 - math.log2(n)) * ALPHA)


def _serve(n: int, servers: int, length: int) -> float:
    """专用的参数服务器：每轮一个 rank 对一个服务器，收齐之后相加，再倒过来。"""
    network, most = Network(n, servers * length, servers), max(n, servers)
    for add in (True, False):
        for t in range(most):
            pairs = [(w, (w + t) % most) for w in range(n) if (w + t) % most < servers]
            moves = [
                (w, n + j, _part(j, length), True) if add else (n + j, w, _part(j, length), False)
                for w, j in pairs
            ]
            network.round(moves, gamma=0.0)
        if add:
            for j in range(servers):
                network.clock[n + j] += Fraction(GAMMA) * (n - 1) * length
            start = max(network.clock)  # 取回从服务器都加完时开始
            network.clock = [start] * len(network.clock)
    return network.finish(n)


@pytest.mark.parametrize(("n", "servers"), [(1, 1), (4, 1), (4, 2), (3, 3), (2, 4), (3, 5)])
def test_parameter_server_time__matches_simulated_messages(n: int, servers: int) -> None:
    """逐条消息的模拟，服务器比 rank 少、一样多、更多都相同。"""
    actual = parameter_server_time(n, float(servers * 2), servers=servers, **COSTS)
    torch.testing.assert_close(actual, _serve(n, servers, 2))


def test_parameter_server_time__equals_worked_example() -> None:
    """N = 4、8 字节、一个服务器：8·(3 + 4) + 3·8/4 = 62 秒；四个服务器：8·(3 + 1) + 3·2/4。"""
    torch.testing.assert_close(parameter_server_time(4, 8.0, **COSTS), 62.0)
    torch.testing.assert_close(parameter_server_time(4, 8.0, servers=4, **COSTS), 33.5)


def test_parameter_server_time__differs_from_ignoring_rank_links() -> None:
    """服务器多于 rank 时，瓶颈是 rank 自己的口：带宽项停在 2Sβ，不再随服务器变少。"""
    for servers in (4, 8, 64):
        seconds = parameter_server_time(4, 640.0, alpha=0.0, beta=BETA, servers=servers)
        torch.testing.assert_close(seconds, 2 * 640.0 * BETA)
    assert seconds / 10 > 2 * 640.0 * BETA * 4 / 64  # 只看服务器的口会算成这样


@pytest.mark.parametrize(("n", "length"), [(1, 3), (2, 3), (3, 2), (5, 4), (8, 1)])
def test_colocated_server_time__matches_simulated_messages(n: int, length: int) -> None:
    """每个 rank 兼作一块的服务器：N − 1 轮两两配对的消息，收齐相加，再倒过来。"""
    network = Network(n, n * length)
    own = [[Counter([r]) for _ in range(length)] for r in range(n)]
    for t in range(1, n):
        moves = []
        for r in range(n):
            j = (r + t) % n
            moves.append((r, j, _part(j, length), False))
            own[j] = [value + Counter([r]) for value in own[j]]
        network.round(moves, gamma=0.0)
    for j in range(n):
        for i, value in zip(_part(j, length), own[j], strict=True):
            network.data[j][i] = value
        network.clock[j] += Fraction(GAMMA) * (n - 1) * length
    for t in range(1, n):
        network.round([(j, (j + t) % n, _part(j, length), False) for j in range(n)])
    actual = colocated_server_time(n, float(n * length), **COSTS)
    torch.testing.assert_close(actual, network.finish(n))


def test_colocated_server_time__equals_ring_time() -> None:
    """与环形归约的时间处处相同。"""
    for n in (1, 2, 3, 16):
        torch.testing.assert_close(
            colocated_server_time(n, 96.0, **COSTS), ring_time(n, 96.0, **COSTS)
        )


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_allreduce_lower_bound__matches_search_over_all_schedules(n: int) -> None:
    """穷举一个元素的全部消息次序：人人知道全部贡献至少要 2(N − 1) 条，即每个 rank 平均的下界。"""
    start = tuple(1 << r for r in range(n))
    goal = ((1 << n) - 1,) * n
    frontier, seen, count = {start}, {start}, 0
    while goal not in seen:
        reached = set()
        for state in frontier:
            for a in range(n):
                for b in range(n):
                    after = list(state)
                    after[b] |= state[a]  # 比求和更宽松：重复的贡献也可以并
                    reached.add(tuple(after))
        frontier = reached - seen
        seen |= reached
        count += 1
    torch.testing.assert_close(allreduce_lower_bound(n, 1.0), count / n)


def test_allreduce_lower_bound__equals_ring_volume() -> None:
    """α = γ = 0、β = 1 时环形归约的时间就是下界；树是它的 ⌈log₂N⌉N/(N − 1) 倍。"""
    for n in (2, 3, 8):
        bound = allreduce_lower_bound(n, 48.0)
        torch.testing.assert_close(ring_time(n, 48.0, 0.0, 1.0), bound)
        ratio = math.ceil(math.log2(n)) * n / (n - 1)
        torch.testing.assert_close(tree_time(n, 48.0, 0.0, 1.0), bound * ratio)


@pytest.mark.parametrize("n", [4, 5, 8, 100])
@pytest.mark.parametrize("gamma", [0.0, 3e-10])
def test_ring_tree_crossover__matches_root_of_difference(n: int, gamma: float) -> None:
    """与用 brentq 求出的两条曲线的交点相同。"""
    costs = {"alpha": 2e-5, "beta": 1e-10, "gamma": gamma}

    def gap(size: float) -> float:
        return ring_time(n, size, **costs) - tree_time(n, size, **costs)

    root = brentq(gap, 0.0, 1e12, xtol=1e-6, rtol=1e-12)
    actual = ring_tree_crossover(n, **costs)
    # 求根的容差限制了精度
    torch.testing.assert_close(actual, root, rtol=1e-9, atol=1e-3)


def test_ring_tree_crossover__equals_worked_example() -> None:
    """两三个 rank 时环从不更慢；16 个、20 微秒、10 GB/s 时是 718 kB，8 个时是 376 kB。"""
    assert ring_tree_crossover(2, 2e-5, 1e-10) == 0
    assert ring_tree_crossover(3, 2e-5, 1e-10) == 0
    assert round(ring_tree_crossover(16, 2e-5, 1e-10) / 1e3) == 718
    assert round(ring_tree_crossover(8, 2e-5, 1e-10) / 1e3) == 376


def test_bus_bandwidth__matches_bytes_sent_over_time() -> None:
    """等于环里每个 rank 发出的字节除以时间，字节数由逐步相加得到。"""
    for n in (2, 3, 5):
        size, seconds = 60.0 * n, 7.0
        sent = sum(size / n for _ in range(2 * (n - 1)))
        torch.testing.assert_close(bus_bandwidth(size, seconds, n), sent / seconds)


def test_bus_bandwidth__depends_only_on_link() -> None:
    """α = γ = 0 的环，不论 N 与大小，总线带宽都是 1/β；S/t 却随 N 下降。"""
    for n, size in ((2, 64.0), (4, 640.0), (16, 64.0)):
        seconds = ring_time(n, size, 0.0, BETA)
        torch.testing.assert_close(bus_bandwidth(size, seconds, n), 1 / BETA)
        torch.testing.assert_close(size / seconds, n / (2 * (n - 1)) / BETA)


def test_fit_alpha_beta__matches_lstsq() -> None:
    """带噪声的数据，与 numpy.polyfit 及 torch.linalg.lstsq 相同。"""
    generator = torch.Generator().manual_seed(0)
    sizes = (2.0 ** torch.arange(10, 25, dtype=torch.float64)).contiguous()
    seconds = 2e-3 + 3e-9 * sizes + 1e-4 * torch.randn(15, dtype=torch.float64, generator=generator)
    intercept, slope = fit_alpha_beta(sizes, seconds)
    theirs = np.polyfit(sizes.numpy(), seconds.numpy(), 1)
    torch.testing.assert_close(slope, float(theirs[0]))
    torch.testing.assert_close(intercept, float(theirs[1]))
    design = torch.stack((torch.ones_like(sizes), sizes / 1e6), dim=1)
    solved = torch.linalg.lstsq(design, seconds[:, None]).solution[:, 0]
    torch.testing.assert_close(intercept, solved[0].item())
    torch.testing.assert_close(slope, solved[1].item() / 1e6)


def test_fit_alpha_beta__equals_inverse_of_ring_time() -> None:
    """由环的时间拟合出的截距与斜率，换算回链路的 α 与 β。"""
    n, sizes = 4, torch.tensor([4e3, 4e4, 4e5, 4e6], dtype=torch.float64)
    times = [ring_time(n, s, 2e-5, 1e-10) for s in sizes.tolist()]
    seconds = torch.tensor(times, dtype=torch.float64)
    intercept, slope = fit_alpha_beta(sizes, seconds)
    torch.testing.assert_close(intercept / (2 * (n - 1)), 2e-5)
    torch.testing.assert_close(slope * n / (2 * (n - 1)), 1e-10)


def test_ring_time__rejects_bad_input() -> None:
    """世界大小不是正整数，大小或代价为负、无穷、不是数，都报错。"""
    for n in (0, 2.0, True):
        with pytest.raises(ValueError, match="world_size 必须"):
            ring_time(n, 8.0, 1.0, 1.0)
    for position, name in enumerate(("size", "alpha", "beta", "gamma")):
        for bad in (-1.0, math.inf, math.nan):
            arguments = [8.0, 1.0, 1.0, 1.0]
            arguments[position] = bad
            with pytest.raises(ValueError, match=f"{name} 必须是有限的非负数"):
                ring_time(4, *arguments)


def test_tree_time__rejects_bad_input() -> None:
    """世界大小为零、延迟为负时报错。"""
    for arguments in ((0, 8.0, 1.0, 1.0), (4, 8.0, -1.0, 1.0)):
        with pytest.raises(ValueError, match="必须"):
            tree_time(*arguments)


def test_halving_doubling_time__rejects_other_world_sizes() -> None:
    """世界大小不是 2 的幂时报错。"""
    for n in (3, 6, 12):
        with pytest.raises(ValueError, match="world_size 必须是 2 的幂"):
            halving_doubling_time(n, 8.0, 1.0, 1.0)


def test_parameter_server_time__rejects_bad_input() -> None:
    """没有服务器或个数不是整数时报错。"""
    for servers in (0, 1.5):
        with pytest.raises(ValueError, match="servers 必须"):
            parameter_server_time(4, 8.0, 1.0, 1.0, servers=servers)


def test_colocated_server_time__rejects_bad_input() -> None:
    """世界大小为零、代价为负时报错。"""
    for arguments in ((0, 8.0, 1.0, 1.0), (4, 8.0, 1.0, -1.0)):
        with pytest.raises(ValueError, match="必须"):
            colocated_server_time(*arguments)


def test_allreduce_lower_bound__rejects_bad_input() -> None:
    """世界大小为零、字节数为负时报错。"""
    for arguments in ((0, 8.0), (4, -8.0)):
        with pytest.raises(ValueError, match="必须"):
            allreduce_lower_bound(*arguments)


def test_ring_tree_crossover__rejects_bad_input() -> None:
    """只有一个 rank、代价为负、传输与相加都不要时间，报错。"""
    with pytest.raises(ValueError, match="world_size 必须"):
        ring_tree_crossover(1, 1.0, 1.0)
    with pytest.raises(ValueError, match="alpha 必须"):
        ring_tree_crossover(4, -1.0, 1.0)
    with pytest.raises(ValueError, match="beta 与 gamma 不能都是 0"):
        ring_tree_crossover(4, 1.0, 0.0)


def test_bus_bandwidth__rejects_bad_input() -> None:
    """用时为零或为负、字节数为负时报错。"""
    for arguments in ((8.0, 0.0, 2), (8.0, -1.0, 2), (-8.0, 1.0, 2), (8.0, 1.0, 0)):
        with pytest.raises(ValueError, match="必须"):
            bus_bandwidth(*arguments)


def test_fit_alpha_beta__rejects_bad_input() -> None:
    """长度不同、大小都相同、空的、整数的都报错。"""
    two = torch.tensor([1.0, 2.0])
    for sizes, seconds in (
        (two, torch.ones(3)),
        (torch.ones(2), two),
        (torch.zeros(0), torch.zeros(0)),
        (torch.tensor([1, 2]), two),
    ):
        with pytest.raises(ValueError, match=r"sizes|seconds"):
            fit_alpha_beta(sizes, seconds)
