"""Records of matches (trajectories), scores, and the samples made from them. Imports no torch."""
