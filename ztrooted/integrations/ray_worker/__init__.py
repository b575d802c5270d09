"""The program of a worker on a governed Ray node; run as a folder, beside which Python finds no other module."""
