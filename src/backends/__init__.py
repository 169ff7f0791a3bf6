"""Backends: what samples the replies to prompts (transformers, vLLM, or a server that speaks OpenAI's API)."""
