"""World models on latents: clips with actions, networks, evaluations, plans."""
