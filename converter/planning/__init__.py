"""From matched sources to a `converter.plan.Plan`, without reading a tensor."""
