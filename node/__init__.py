"""The daemon: asyncio driver, transports, membership, control API, command line."""
