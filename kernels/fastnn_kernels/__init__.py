"""The kernels of fastnn: one contract, several kernel sets. Knows arrays and numbers, knows no layer."""
