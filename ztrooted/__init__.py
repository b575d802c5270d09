"""What is trusted and why: evidence, policy, authorization, lineage and proof; and the executor and its command line."""
