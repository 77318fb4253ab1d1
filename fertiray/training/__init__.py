"""Training: one loop for every recipe, in plain PyTorch."""
