#!/usr/bin/env python3
"""Checks models.toml: the shape of every model gives the number of weights that its makers publish."""
import sys
import tomllib

KEYS = {"title", "family", "parameters", "use", "thinking", "license", "allows", "tier", "repository", "file", "unchecked", "shape"}


def weights(shape, experts):
    """Weights of a model of which each token passes `experts` feed-forward blocks in a layer."""
    s = shape
    attention = s["width"] * s["head_dim"] * (2 * s["heads"] + 2 * s["kv_heads"])
    router = s["width"] * s.get("experts", 0)
    norms = 2 * s["width"] + (2 * s["head_dim"] if s["qk_norm"] else 0)
    layer = attention + router + norms + experts * 3 * s["width"] * s["ffn"]
    embeddings = s["vocab"] * s["width"] * (1 if s["tied"] else 2)
    return s["layers"] * layer + embeddings + s["width"]


def faults(model):
    shape = model["shape"]
    counted = [("parameters", weights(shape, shape.get("experts", 1)))]
    if "experts" in shape:
        counted.append(("active", weights(shape, shape["used"])))
    for key, count in counted:
        if model.get(key) != count:
            yield f"{key}: the shape gives {count}, the table says {model.get(key)}"
    if keys := (KEYS ^ set(model)) - {"active"}:
        yield f"keys missing or unknown: {sorted(keys)}"
    if unknown := set(model["unchecked"]) - set(model) - {f"shape.{key}" for key in shape}:
        yield f"unchecked names no key of this table: {sorted(unknown)}"


with open(sys.argv[1], "rb") as file:
    catalogue = tomllib.load(file)
wrong = [f"{name}: {fault}" for name, model in catalogue.items() for fault in faults(model)]
print("\n".join(wrong) or f"{len(catalogue)} models, shapes and weight counts agree")
sys.exit(bool(wrong))
