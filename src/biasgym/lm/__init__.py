"""The model room: the only place that knows torch modules."""
