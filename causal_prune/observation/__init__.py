"""Seeing: one pass over the images leaves all the statistics that scores need, whatever the number of images."""
