"""Recurrent state-space world models and the agents that learn in them."""
