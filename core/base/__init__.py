"""Files, text, names, pictures, child processes: what any room may import; imports none."""
