"""DreamerV3: recurrent state-space world models, and agents that learn in imagination."""
