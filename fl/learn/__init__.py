"""Running user code: models, default loops, the in-process runner, and the worker process with its sandbox."""
