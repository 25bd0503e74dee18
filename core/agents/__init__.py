"""What acts: spaces, environments, replay, collection, episodes; imports nn, data and below."""
