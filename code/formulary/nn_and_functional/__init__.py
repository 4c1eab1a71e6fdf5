"""nn.Xxx 与 nn.functional.xxx：对应实现。"""
