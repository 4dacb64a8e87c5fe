"""The causal arm beside others: the same widths, data, repair and training, other units."""
