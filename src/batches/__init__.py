"""Packs samples into rows (packed sequences), and plans all optimiser steps of a round."""
