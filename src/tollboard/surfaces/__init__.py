"""The surfaces: what people and programs touch. Thin: parse, call a verb, print."""
