// Chains of elementwise kernels: what the functions that chain.py writes are made of.
#include "functions.cuh"
#include "philox.cuh"
#include "strided.cuh"
