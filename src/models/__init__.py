"""Language models: creation, loading, chat rendering, adapters, and the trainable policy module."""
