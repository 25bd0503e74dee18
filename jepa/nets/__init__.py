"""Networks of the JEPA family: encoders, predictors, projectors."""
