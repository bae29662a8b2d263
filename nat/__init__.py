"""NAT traversal: empty until its issue."""
