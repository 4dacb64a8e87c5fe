"""Repair of a cut network from unlabelled images: layers refitted so that they compute what they computed before."""
