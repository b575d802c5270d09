"""Adapters to orchestrators. Each gates twice, where work is handed out and where it runs; docs/orchestrators.md.

Each module needs the orchestrator that it is named after, which is not among our dependencies.
"""
