"""Batches: samples packed into rows, and the plan of all optimiser steps of a round."""
