"""An application that learns the mean of the digits: the least that trains, measures itself and takes an option."""

from __future__ import annotations

FUNCTIONS = """
import numpy as np
import fl

def model():
    return {"w": np.zeros(64, np.float32)}

def train(model, data, ctx):
    model["w"] += np.float32(ctx.get("step", 1.0)) * data["x"].mean(axis=0)

def evaluate(model, data, ctx):
    return {"norm": float(np.abs(model["w"]).sum())}
"""
"""All but the line that makes it an application."""
