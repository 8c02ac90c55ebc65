"""What a network costs: parameters, MACs, size, latency and throughput in eager PyTorch."""

from harness.cost.measure import conditions_of, measure_costs

__all__ = ["conditions_of", "measure_costs"]
