r"""卷积、转置卷积与池化的输出尺寸；一次只看一轴。"""

from formulary.checks import require_count


def convolution_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    r"""卷积的输出在一轴上的长度。

    Args:
        size: 输入的长度。
        kernel: 核的边长。
        stride: 步幅。
        padding: 两端各补的零的个数。
        dilation: 核的两个元素之间的间隔。

    Returns:
        输出的长度（格）。

    Raises:
        ValueError: 参数不是正整数（padding 可以为 0），或补零之后仍放不下一个核。

    出处:
        Dumoulin & Visin 2016, arXiv:1603.07285；PyTorch 2.13, torch.nn.Conv2d。

    示例:
        >>> convolution_output_size(7, kernel=3, stride=2, padding=1)
        4
    """
    for name, value in (
        ("size", size),
        ("kernel", kernel),
        ("stride", stride),
        ("dilation", dilation),
    ):
        require_count(name, value)
    require_count("padding", padding, 0)
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(f"核张开后长 {reach}，补零后的输入只有 {size + 2 * padding}，放不下")
    return (size + 2 * padding - reach) // stride + 1


def transposed_output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    r"""转置卷积的输出在一轴上的长度。

    Args:
        size: 输入的长度。
        kernel: 核的边长。
        stride: 步幅。
        padding: 对应的卷积所补的零的个数，这里从两端裁去。
        output_padding: 末端多出的长度，用来在几个可能的尺寸里选一个。
        dilation: 核的两个元素之间的间隔。

    Returns:
        输出的长度（格）。

    Raises:
        ValueError: 参数不是正整数（padding、output_padding 可以为 0），output_padding
            不小于 stride 与 dilation 中较大的一个，或输出为空。

    出处:
        Dumoulin & Visin 2016, arXiv:1603.07285；PyTorch 2.13, torch.nn.ConvTranspose2d。

    示例:
        >>> transposed_output_size(4, kernel=3, stride=2, padding=1)
        7
    """
    for name, value in (
        ("size", size),
        ("kernel", kernel),
        ("stride", stride),
        ("dilation", dilation),
    ):
        require_count(name, value)
    require_count("padding", padding, 0)
    require_count("output_padding", output_padding, 0)
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding 必须小于 stride 与 dilation 中较大的 {max(stride, dilation)}，"
            f"得到 {output_padding}"
        )
    length = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if length < 1:
        raise ValueError(f"输出的长度是 {length}；减小 padding，或增大 kernel")
    return length


def pooling_output_size(
    size: int, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False
) -> int:
    r"""池化的输出在一轴上的长度。

    Args:
        size: 输入的长度。
        kernel: 窗口的边长。
        stride: 步幅。
        padding: 两端各补的个数，不超过窗口的一半。
        ceil_mode: 真时向上取整，末端的窗口可以伸出去，但必须从输入或左侧的补齐里开始。

    Returns:
        输出的长度（格）。

    Raises:
        ValueError: 参数不是正整数（padding 可以为 0），padding 超过窗口的一半，或放不下窗口。

    出处:
        PyTorch 2.13, torch.nn.MaxPool2d。

    示例:
        >>> [pooling_output_size(5, 2, 2, ceil_mode=ceil_mode) for ceil_mode in (False, True)]
        [2, 3]
    """
    for name, value in (("size", size), ("kernel", kernel), ("stride", stride)):
        require_count(name, value)
    require_count("padding", padding, 0)
    if 2 * padding > kernel:
        raise ValueError(f"padding 不能超过窗口的一半，窗口是 {kernel}，得到 {padding}")
    room = size + 2 * padding - kernel
    length = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    if ceil_mode and (length - 1) * stride >= size + padding:
        length -= 1
    if length < 1:
        raise ValueError(f"窗口长 {kernel}，补齐后的输入只有 {size + 2 * padding}，放不下")
    return length
