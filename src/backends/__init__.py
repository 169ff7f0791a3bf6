"""Backends (inference engines): sample replies with transformers, vLLM, or a server with OpenAI's API."""
