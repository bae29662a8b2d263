"""Federated learning on the forest: the SDK, the role machines, the strategies."""
