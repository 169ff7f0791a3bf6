"""The rules of the games, in plain Python: nothing here knows a model, a token or torch."""
