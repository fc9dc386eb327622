"""Each operation once: what the surfaces are made from."""
