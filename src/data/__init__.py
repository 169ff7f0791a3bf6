"""Records (episode, store, scorer, credit: no torch) and what training makes of them (sample, packing, plan)."""
