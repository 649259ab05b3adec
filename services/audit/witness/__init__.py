"""The witness: a process of its own, with a key of its own, that signs what is consistent with what it saw before."""
