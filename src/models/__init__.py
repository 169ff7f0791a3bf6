"""Language models: how they are made, loaded, rendered for, sampled from and trained."""
