"""Reads a kubeconfig written by kijabi or by hand as JSON, without a YAML library: only `key: value` lines matter."""
import json, re


def kubeconfig(path):
    text = open(path).read()
    if text.lstrip().startswith("{"):
        config = json.loads(text)
        return config["clusters"][0]["cluster"], config["users"][0]["user"]
    pairs = dict(re.findall(r"^[\s-]*([a-z-]+):\s+\"?([^\"\s]+)\"?\s*$", text, re.M))
    return pairs, pairs
