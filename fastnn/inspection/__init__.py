"""Tools that look into a model: gradients checked and followed, learning rates tried, bias and variance told apart."""
