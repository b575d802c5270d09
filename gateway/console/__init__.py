"""The five proof surfaces, in a browser."""
