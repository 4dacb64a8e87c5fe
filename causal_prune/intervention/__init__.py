"""Doing instead of seeing: networks run with what a layer reads or returns set from outside."""
