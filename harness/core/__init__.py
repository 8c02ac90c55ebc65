"""What every part may use: errors, content hashes and locks, addresses, names, Pareto fronts. Needs no other part."""
