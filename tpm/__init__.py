"""Chips and bytes: what TCG and the Linux kernel define, parsed and verified in pure Python."""
