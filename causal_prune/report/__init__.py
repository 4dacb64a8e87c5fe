"""The report: data, rendering and the gate. Nothing here imports torch."""
