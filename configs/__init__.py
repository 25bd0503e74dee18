"""Settings by preset, as data; imports only ml_collections."""
