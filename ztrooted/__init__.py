"""What is trusted and why: evidence, policy, authorization, lineage, proof; the executor agent; the command line."""
