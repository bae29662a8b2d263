"""The shared vocabulary at the bottom of the stack: ids, events, effects, wire codec, errors, random streams."""
