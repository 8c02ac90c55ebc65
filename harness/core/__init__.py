"""Helpers of all parts: errors, content hashes and locks, addresses, names, Pareto fronts. Imports no other part."""
