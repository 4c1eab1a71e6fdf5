"""Proofs of M-RoPE: loops, and transformers 5.23 (Qwen2-VL, Qwen2.5-VL, Qwen3-VL)."""

from types import SimpleNamespace

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel, Qwen2VLRotaryEmbedding
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from formulary.rope.multimodal import (
    mrope_angles,
    mrope_axes,
    mrope_interleaved_axes,
    mrope_position_ids,
)


def library_position_ids(model, segments, tokens_per_second=1, seconds=None):
    """Run transformers' own get_rope_index on patches of 2×2 merged into one token."""
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=tokens_per_second)
    stub = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    stub.get_vision_position_ids = lambda *args, **kwargs: model.get_vision_position_ids(
        stub, *args, **kwargs
    )
    types, images, videos = [], [], []
    for segment in segments:
        if isinstance(segment, int):
            types += [0] * segment
            continue
        frames, rows, columns = segment
        (images if frames == 1 else videos).append([frames, 2 * rows, 2 * columns])
        types += [1 if frames == 1 else 2] * (frames * rows * columns)
    extra = {} if seconds is None else {"second_per_grid_ts": [seconds] * len(videos)}
    ids, _ = model.get_rope_index(
        stub,
        torch.zeros(1, len(types), dtype=torch.long),
        torch.tensor([types]),
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        **extra,
    )
    return ids[:, 0]


def test_mrope_axes__matches_loop() -> None:
    """与按分段逐对判断的结果一致。"""
    sections = (16, 24, 23)
    expected = [0 if i < 16 else 1 if i < 16 + 24 else 2 for i in range(63)]
    assert mrope_axes(sections).tolist() == expected


def test_mrope_axes__equals_worked_example() -> None:
    """Qwen2-VL 的 (16, 24, 24)：第 15 对看 t，第 16、39 对看 h，第 40、63 对看 w。"""
    axes = mrope_axes((16, 24, 24))
    assert axes[[15, 16, 39, 40, 63]].tolist() == [0, 1, 1, 2, 2]
    assert mrope_axes((0, 1, 2)).tolist() == [1, 2, 2]


def test_mrope_axes__rejects_bad_sections() -> None:
    """段数不是三、有负数或全为零，都报错。"""
    for sections in ((16, 24), (16, 24, -1), (0, 0, 0)):
        with pytest.raises(ValueError, match="sections"):
            mrope_axes(sections)


def test_mrope_interleaved_axes__matches_transformers() -> None:
    """与 Qwen3-VL 的旋转表一致：三行位置号各异，逐对比较余弦与正弦。"""
    config = Qwen3VLTextConfig(
        hidden_size=128,
        num_attention_heads=1,
        head_dim=128,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
        },
    )
    positions = torch.tensor([[3, 17, 250], [5, 29, 111], [2, 90, 333]])
    cos, sin = Qwen3VLTextRotaryEmbedding(config)(torch.zeros(1), positions[:, None])
    angles = mrope_angles(positions, mrope_interleaved_axes((24, 20, 20)), base=5e6)
    torch.testing.assert_close(angles.cos(), cos[0, :, :64], rtol=0, atol=5e-5)  # float32 angles
    torch.testing.assert_close(angles.sin(), sin[0, :, :64], rtol=0, atol=5e-5)  # up to 333 rad


def test_mrope_interleaved_axes__equals_worked_example() -> None:
    """(24, 20, 20)：前 60 对按 t、h、w 轮流，最后 4 对归 t，各轴名额不多不少。"""
    axes = mrope_interleaved_axes((24, 20, 20))
    assert axes.tolist() == [0, 1, 2] * 20 + [0] * 4
    assert axes.bincount().tolist() == [24, 20, 20]
    assert mrope_interleaved_axes((2, 1, 0)).tolist() == [0, 1, 0]


def test_mrope_interleaved_axes__matches_loop() -> None:
    """当 h 与 w 的名额不同时，与逐对轮流分发名额的循环一致。"""
    left, expected = [5, 3, 4], []
    while sum(left):
        for axis in range(3):
            taker = axis if left[axis] else 0
            if left[taker]:
                left[taker] -= 1
                expected.append(taker)
    actual = mrope_interleaved_axes((5, 3, 4)).tolist()
    assert actual == expected


def test_mrope_interleaved_axes__rejects_bad_sections() -> None:
    """段数不是三、有负数、或 h、w 的名额排不下，都报错。"""
    for sections in ((24, 20), (3, -1, 2), (2, 3, 1), (2, 1, 3), (5, 2, 4), (-5, 1, 1), (0, -1, 0)):
        with pytest.raises(ValueError, match="sections"):
            mrope_interleaved_axes(sections)


def test_mrope_angles__matches_transformers() -> None:
    """与 Qwen2-VL 的旋转表一致（分段 16、24、24，底数 1e6）。"""
    config = Qwen2VLTextConfig(
        hidden_size=128,
        num_attention_heads=1,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    )
    positions = torch.tensor([[3, 17, 25], [5, 29, 111], [2, 90, 333]])
    cos, sin = Qwen2VLRotaryEmbedding(config)(torch.zeros(1), positions[:, None])
    angles = mrope_angles(positions, mrope_axes((16, 24, 24)))
    torch.testing.assert_close(angles.cos(), cos[0, :, :64], rtol=0, atol=1e-5)  # float32 angles
    torch.testing.assert_close(angles.sin(), sin[0, :, :64], rtol=0, atol=1e-5)  # float32 angles


def test_mrope_angles__matches_loop() -> None:
    """与逐词元、逐对写出的乘积一致。"""
    positions = torch.tensor([[0, 4, 9, 2], [1, 5, 0, 7], [3, 6, 8, 5]])
    axes = torch.tensor([2, 0, 1, 1, 0])
    expected = torch.empty(4, 5, dtype=torch.float64)
    for t in range(4):
        for i in range(5):
            expected[t, i] = positions[axes[i], t].item() * 500.0 ** (-2 * i / 10)
    actual = mrope_angles(positions, axes, base=500.0, dtype=torch.float64)
    torch.testing.assert_close(actual, expected)


def test_mrope_angles__equals_worked_example() -> None:
    """底数 1e6、隔 50 格：分段时高、宽最快的对转 1.58、0.0089 弧度；交替时宽的 θ_2 是 0.649。"""
    apart = torch.full((3, 1), 50.0, dtype=torch.float64)
    angles = mrope_angles(apart, mrope_axes((16, 24, 24)), dtype=torch.float64)[0]
    torch.testing.assert_close(angles[16].item(), 50 * 10**-1.5)
    torch.testing.assert_close(angles[40].item(), 50 * 10**-3.75)
    assert mrope_interleaved_axes((24, 20, 20)).tolist().index(2) == 2
    single = mrope_angles(apart / 50, mrope_interleaved_axes((24, 20, 20)))[0]
    assert single.dtype == torch.float32
    assert round(single[2].item(), 3) == 0.649


def test_mrope_angles__limit_text_only() -> None:
    """当 t = h = w 时，无论特征对怎样分给三个轴，都是一维 RoPE 的转角。"""
    text = torch.arange(5).expand(3, -1)
    expected = torch.outer(
        torch.arange(5, dtype=torch.float64), 1e6 ** (-torch.arange(6, dtype=torch.float64) / 6)
    )
    for axes in (mrope_axes((1, 2, 3)), mrope_interleaved_axes((2, 2, 2))):
        torch.testing.assert_close(mrope_angles(text, axes, dtype=torch.float64), expected)


def test_mrope_angles__rejects_bad_shapes() -> None:
    """位置号不是三行、轴号出界，都报错。"""
    axes = torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match="positions"):
        mrope_angles(torch.zeros(2, 5), axes)
    with pytest.raises(ValueError, match="positions"):
        mrope_angles(torch.zeros(3), axes)
    with pytest.raises(ValueError, match="axes"):
        mrope_angles(torch.zeros(3, 5), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="axes"):
        mrope_angles(torch.zeros(3, 5), torch.tensor([-1, 2]))


def test_mrope_position_ids__matches_transformers_images() -> None:
    """文本与大小不同的图像混排时，与 Qwen2-VL 的 get_rope_index 一致。"""
    segments = [3, (1, 2, 5), 4, (1, 6, 3), 2]
    expected = library_position_ids(Qwen2VLModel, segments)
    assert mrope_position_ids(segments).tolist() == expected.tolist()


def test_mrope_position_ids__matches_transformers_video_interval() -> None:
    """每帧 1.5 步的视频，与 Qwen2.5-VL 的 get_rope_index 一致（视频之后无文本）。"""
    segments = [3, (1, 2, 3), 2, (5, 2, 3)]
    expected = library_position_ids(Qwen2_5_VLModel, segments, tokens_per_second=2, seconds=0.75)
    assert mrope_position_ids(segments, interval=1.5).tolist() == expected.tolist()


def test_mrope_position_ids__matches_loop() -> None:
    """与逐格写出的循环一致：帧号先乘间隔再取整，下一段从最大值加一开始。"""
    segments, interval = [2, (4, 2, 3), 3, (1, 1, 7), 1], 2.5
    columns, start = [], 0
    for segment in segments:
        block = []
        if isinstance(segment, int):
            block = [(start + n,) * 3 for n in range(segment)]
        else:
            for f in range(segment[0]):
                for y in range(segment[1]):
                    for x in range(segment[2]):
                        block.append((start + int(f * interval), start + y, start + x))
        columns += block
        start = max(max(column) for column in columns) + 1
    actual = mrope_position_ids(segments, interval)
    assert [tuple(column) for column in actual.T.tolist()] == columns


def test_mrope_position_ids__equals_worked_example() -> None:
    """224×224 的图合并成 8×8 个词元，计数器只前进 8。"""
    ids = mrope_position_ids([3, (1, 8, 8), 2])
    assert ids.shape == (3, 3 + 64 + 2)
    assert ids[:, -2].tolist() == [11, 11, 11]
    assert ids[:, 3].tolist() == [3, 3, 3]
    assert ids[:, 66].tolist() == [3, 10, 10]
    expected = [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert mrope_position_ids([2, (1, 2, 3), 2]).tolist() == expected


def test_mrope_position_ids__differs_from_token_count_counter() -> None:
    """若每幅图让计数器前进词元数 64，下一个文本词元是 67 而不是 11。"""
    by_tokens = 3 + 8 * 8
    assert mrope_position_ids([3, (1, 8, 8), 1])[:, -1].tolist() == [11] * 3
    assert by_tokens == 67


def test_mrope_position_ids__differs_from_scaled_still_image() -> None:
    """静态图像的 t 就是段的起点 7；把起点也乘上每秒 2 步（transformers 5.3.0）会得到 14。"""
    ids = mrope_position_ids([7, (1, 2, 2), 1], interval=2.0)
    scaled = (torch.zeros(4) + 7) * 2.0
    assert ids[0, 7:11].tolist() == [7] * 4
    assert scaled.tolist() == [14] * 4
    fixed = library_position_ids(Qwen2_5_VLModel, [7, (1, 2, 2), 1], tokens_per_second=2)
    assert ids.tolist() == fixed.tolist()


def test_mrope_position_ids__differs_from_truncate_before_multiply() -> None:
    """每帧 0.5 秒、每秒 2 步：先乘后取整得 0、1、2、3，先取整秒数则四帧全是 0。"""
    ids = mrope_position_ids([(4, 1, 1)], interval=2 * 0.5)
    truncated = [f * 2 * int(0.5) for f in range(4)]
    assert ids[0].tolist() == [0, 1, 2, 3]
    assert truncated == [0, 0, 0, 0]
    assert mrope_position_ids([(4, 1, 1)], interval=0.5)[0].tolist() == [0, 0, 1, 1]
    assert mrope_position_ids([(4, 1, 1)], interval=0.0)[0].tolist() == [0, 0, 0, 0]


def test_mrope_position_ids__differs_from_spatial_counter() -> None:
    """在 transformers 5.23.0 里，计数器只前进网格边长：5 帧 1×2 的视频之后，文本号与帧号重叠。"""
    segments = [3, (5, 1, 2), 3]
    ids, library = mrope_position_ids(segments), library_position_ids(Qwen2VLModel, segments)
    assert ids[:, :13].tolist() == library[:, :13].tolist()
    assert ids[0, 3:13].max() == 7
    assert ids[0, 13:].tolist() == [8, 9, 10]
    assert library[0, 13:].tolist() == [5, 6, 7]


def test_mrope_position_ids__rejects_bad_segments() -> None:
    """没有段、段的大小不是正整数、间隔为负，都报错。"""
    for segments in ([], [0], [3, (1, 0, 2)], [(2, 3)]):
        with pytest.raises(ValueError, match="segments"):
            mrope_position_ids(segments)
    with pytest.raises(ValueError, match="interval"):
        mrope_position_ids([3], interval=-1.0)
