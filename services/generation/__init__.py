"""The generation service: cited answers from given passages, over several LLM endpoints."""
