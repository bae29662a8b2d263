"""User code at work: tensors, data, worker processes."""
