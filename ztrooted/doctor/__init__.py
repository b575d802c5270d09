"""Looks at a machine before it is relied on. Nothing in here writes, to a disk or to a TPM.

``chip`` looks at a TPM, ``machine`` at the kernel and what it offers, ``network`` at a gateway from afar. An installed
gateway adds what it knows of its own folder (the entry points ``ztrooted.doctor``).
"""
