"""torch.nn.functional 里“是否处于训练模式”这个参数的默认值。"""

import inspect

import torch.nn.functional as F

FLAGS = ("training", "use_input_stats")


def training_defaults() -> dict[str, bool]:
    r"""逐个读出函数的签名，列出训练开关的默认值。

    Returns:
        从函数名到默认值的字典；真表示不交代就当作在训练。

    约定:
        开关叫 training 或 use_input_stats；F.scaled_dot_product_attention 没有开关，不在其中。

    出处:
        PyTorch 2.13 的 torch.nn.functional，运行时读取。

    示例:
        >>> defaults = training_defaults()
        >>> defaults["dropout"], defaults["batch_norm"]
        (True, False)
    """
    defaults = {}
    for name, function in inspect.getmembers(F, inspect.isfunction):
        for flag, parameter in inspect.signature(function).parameters.items():
            if flag in FLAGS and not name.startswith("_"):
                defaults[name] = parameter.default
    return defaults
