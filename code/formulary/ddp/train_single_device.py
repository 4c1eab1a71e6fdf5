"""在一个设备上训练一个小网络。运行：python train_single_device.py"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset


def make_dataset(samples: int = 1024) -> TensorDataset:
    """单位正方形里的点，目标是两个正弦的乘积。"""
    x = torch.rand(samples, 2, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, torch.sin(3 * x).prod(dim=1, keepdim=True))


def make_model() -> nn.Module:
    """两个输入、一个输出的全连接网络。"""
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))


def main() -> None:
    """训练，报出全部数据上的损失，按需要存下参数。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20, help="轮数")
    parser.add_argument("--batch-size", type=int, default=64, help="每次更新用的样本数")
    parser.add_argument("--save", help="把参数存到这个文件")
    parser.add_argument("--cpu", action="store_true", help="有加速器也不用")
    options = parser.parse_args()

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or options.cpu:
        device = torch.device("cpu")
    torch.manual_seed(0)
    dataset = make_dataset()
    generator = torch.Generator()
    sampler = RandomSampler(dataset, generator=generator)
    loader = DataLoader(dataset, options.batch_size, sampler=sampler)
    model = make_model().to(device)
    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    for epoch in range(options.epochs):
        generator.manual_seed(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            loss_function(model(x.to(device)), y.to(device)).backward()
            optimizer.step()

    with torch.no_grad():
        x, y = (tensor.to(device) for tensor in dataset.tensors)
        print(f"final loss {loss_function(model(x), y).item():.6f}")
    if options.save:
        torch.save(model.state_dict(), options.save)


if __name__ == "__main__":
    main()
