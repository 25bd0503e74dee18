"""Games whose objects are known from the memory of their console."""
