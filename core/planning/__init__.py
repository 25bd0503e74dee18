"""Planning: search for actions with any model that gives an objective; evaluation of plans."""
