"""Local data: bindings, loaders, partitions, and what may be told about them."""
