"""PyTorch DDP：对应实现。"""
