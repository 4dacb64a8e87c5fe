"""The whole flow: a trained network and its data in, a smaller network and its report out."""
