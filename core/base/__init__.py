"""Files, text, names, pictures and processes. Every room may import it; it imports none."""
