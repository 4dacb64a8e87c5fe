"""Cuts made on copies: which units a plan keeps, what that asks of every layer, removing them or silencing them."""
