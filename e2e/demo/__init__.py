"""``make demo``: the main job on real parts, from an empty machine to a model's answer."""
