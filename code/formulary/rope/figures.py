"""《旋转式位置编码》系列的插图：一个函数一幅图，返回 matplotlib 的 Figure。

颜色取自 rcParams 的 prop_cycle，由 formulary_site 按浅色与深色两种主题各画一遍，
所以函数里不写死前景色与背景色。
"""
